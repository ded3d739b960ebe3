// Reads a checkpoint with nothing but an LMDB package: docs/formats.md is all it knows of Coldstream.
// usage: reader VERSION_DIRECTORY        prints JSON: rows and their sums by table, tensors' sizes and sums
package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"

	"github.com/bmatsuo/lmdb-go/lmdb"
)

type table struct {
	Rows int     `json:"rows"`
	Sum  float64 `json:"sum"`
	Last string  `json:"last"`
}

type tensor struct {
	Shape []uint64 `json:"shape"`
	Sum   float64  `json:"sum"`
}

func sum(bytes []byte) (total float64) {
	for ; len(bytes) >= 4; bytes = bytes[4:] {
		total += float64(math.Float32frombits(binary.LittleEndian.Uint32(bytes)))
	}
	return total
}

func each(txn *lmdb.Txn, name string, visit func(key, value []byte)) error {
	dbi, err := txn.OpenDBI(name, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	cursor, err := txn.OpenCursor(dbi)
	if err != nil {
		return err
	}
	defer cursor.Close()
	for {
		key, value, err := cursor.Get(nil, nil, lmdb.Next)
		if lmdb.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		visit(key, value)
	}
}

func read(directory string) (map[string]table, map[string]tensor, error) {
	env, err := lmdb.NewEnv()
	if err != nil {
		return nil, nil, err
	}
	defer env.Close()
	if err := env.SetMaxDBs(1024); err != nil {
		return nil, nil, err
	}
	if err := env.Open(directory+"/data.mdb", lmdb.Readonly|lmdb.NoLock|lmdb.NoSubdir, 0); err != nil {
		return nil, nil, err
	}
	tables, tensors := map[string]table{}, map[string]tensor{}
	err = env.View(func(txn *lmdb.Txn) error {
		root, err := txn.OpenRoot(0)
		if err != nil {
			return err
		}
		var names []string
		cursor, err := txn.OpenCursor(root)
		if err != nil {
			return err
		}
		for {
			key, _, err := cursor.Get(nil, nil, lmdb.Next)
			if err != nil {
				break
			}
			if strings.HasPrefix(string(key), "rows.") {
				names = append(names, string(key))
			}
		}
		cursor.Close()
		for _, name := range names {
			var found table
			if err := each(txn, name, func(key, value []byte) {
				found.Rows++
				found.Sum += sum(value)
				found.Last = fmt.Sprintf("%016x", binary.BigEndian.Uint64(key))
			}); err != nil {
				return err
			}
			tables[strings.TrimPrefix(name, "rows.")] = found
		}
		return each(txn, "dense", func(key, value []byte) {
			rank, kind := binary.LittleEndian.Uint32(value), binary.LittleEndian.Uint32(value[4:])
			one := tensor{Shape: []uint64{}}
			for i := uint32(0); i < rank; i++ {
				one.Shape = append(one.Shape, binary.LittleEndian.Uint64(value[8+8*i:]))
			}
			if kind == 0 {
				one.Sum = sum(value[32:])
			}
			tensors[string(key)] = one
		})
	})
	return tables, tensors, err
}

func main() {
	tables, tensors, err := read(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	json.NewEncoder(os.Stdout).Encode(map[string]any{"rows": tables, "dense": tensors})
}
