#!/bin/bash
# Keys and certificates for tests, by openssl alone: a CA, what a broker and a client show, and what they must not show.
# usage: certificates.sh DIR
#   ca.crt other.crt            the CA; one that signed nothing
#   broker.pem                  key and certificate of 127.0.0.1 and localhost
#   expired.pem elsewhere.pem   the same, out of date; and of another host name
#   client.crt client.key client-locked.key key-password      CN=coldstream-client; the key plain, and locked by a password
#   password                    of the user coldstream, for SCRAM
set -eu
umask 077
mkdir -p "$1"
cd "$1"

random() { head -c 18 /dev/urandom | base64 | tr '+/' 'xy'; }
key() { openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null ||
            openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }
authority() { key "$1.key"; openssl req -x509 -new -key "$1.key" -subj "/CN=coldstream test $1" -days 2 -out "$1.crt"; }
signed() {  # NAME SUBJECT ALTERNATIVES [FIRST LAST]: NAME.key, NAME.crt
    key "$1.key"
    openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
    printf '[x]\nsubjectAltName=%s\n' "$3" >"$1.ext"
    printf '[ca]\ndefault_ca=d\n[d]\ndatabase=index\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n' >ca.cnf
    : >index; openssl rand -hex 8 >serial
    openssl ca -batch -notext -config ca.cnf -cert ca.crt -keyfile ca.key -in "$1.csr" -out "$1.crt" -extfile "$1.ext" -extensions x \
        -startdate "${4:-$(date -u -d '-1 hour' +%Y%m%d%H%M%SZ)}" -enddate "${5:-$(date -u -d '+2 days' +%Y%m%d%H%M%SZ)}" 2>openssl.log ||
        { cat openssl.log >&2; exit 1; }
}

authority ca
authority other
random >password
random >key-password
signed broker "/CN=broker" "IP:127.0.0.1,DNS:localhost"
signed expired "/CN=broker" "IP:127.0.0.1,DNS:localhost" 20200101000000Z 20210101000000Z
signed elsewhere "/CN=kafka.example.org" "DNS:kafka.example.org"
signed client "/CN=coldstream-client" "DNS:client.example.org"
openssl pkcs8 -topk8 -in client.key -passout file:key-password -out client-locked.key
for name in broker expired elsewhere; do cat "$name.key" "$name.crt" >"$name.pem"; done
