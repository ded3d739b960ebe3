module coldstream.test/reader

go 1.19

require github.com/bmatsuo/lmdb-go v1.8.0
