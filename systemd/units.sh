#!/bin/sh
# Makes the services from systemd/*.service.in: one file each for a single model and for one model an instance (NAME@.service).
# usage: units.sh DIRECTORY BINDIR
set -eu
into=${1:?usage: units.sh DIRECTORY BINDIR} bindir=${2:?usage: units.sh DIRECTORY BINDIR}
from=$(dirname "$0")
mkdir -p "$into"

make() {    # SOURCE TARGET, then sed expressions
    source=$1 target=$2
    shift 2
    sed -e "/^@hardening@\$/{
            r $from/hardening
            d
        }" -e "s|@bindir@|$bindir|g" "$@" "$from/$source" >"$into/$target"
}

instance="# An instance's configuration names what is its own: snapshot.directory /var/lib/coldstream/%i/snapshot, checkpoint.directory\\
# /var/lib/coldstream/%i/checkpoints, control.socket /run/coldstream-%i/control.sock, http.listen with a port that is free."
for name in coldstream coldstream-serve; do
    make $name.service.in $name.service -e 's|@of@||; s|@config@|coldstream|; s|@serve@|serve|; /^@instance@$/d' \
        -e 's|@state@|coldstream|; s|@run@|coldstream|'
    # A runtime directory beside, not inside, the single model's: that one goes with its service.
    make $name.service.in $name@.service -e 's|@of@|, model %i|; s|@config@|%i|; s|@serve@|serve-%i|' \
        -e "s|^@instance@\$|$instance|; s|@state@|coldstream/%i|; s|@run@|coldstream-%i|"
done

# Names whose directories are somebody else's already; tools/ctl_instance.c has the same. Systemd would hand the directory over, and take
# it away at the end of the service, before the program could say a word: so it does not start at all.
reserve() {     # NAME WHOSE
    mkdir -p "$into/coldstream@$1.service.d"
    printf '[Unit]\n# %s: give the model another name.\nDescription=Coldstream: no model can be called %s, %s\nAssertPathExists=!/\n' "$2" "$1" "$2" \
        >"$into/coldstream@$1.service.d/reserved.conf"
}
reserve serve "/run/coldstream-serve is coldstream-serve's"
reserve snapshot "/var/lib/coldstream/snapshot is coldstream.service's"
reserve checkpoints "/var/lib/coldstream/checkpoints is coldstream.service's"
make coldstream-fetch.service.in coldstream-fetch.service
cp "$from"/*.socket "$from"/*.timer "$from"/*.path "$into"
