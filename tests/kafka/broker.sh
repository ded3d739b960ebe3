#!/bin/bash
# A real Apache Kafka for tests: one KRaft node on loopback, its own folder and free ports, gone when stopped.
# usage: broker.sh start DIR | stop DIR | kill DIR | restart DIR | address DIR | password DIR | fetch
#   start    formats and starts it in DIR, waits until it answers; prints host:port
#            KAFKA_VERSION: another one than pom.xml's. With BROKER_SECURITY=1 it also listens by SASL_PLAINTEXT, SASL_SSL, and
#            SSL with client certificates, has the user coldstream (SCRAM-SHA-512 and PLAIN, password in DIR/tls/password),
#            checks ACLs (on the plain listener all may do all), and has its own CA; DIR/secure has the three addresses in
#            this order, DIR/tls what certificates.sh makes
#   stop     SIGTERM, waits until it is gone        kill     kill -9 (power cut as far as Kafka is concerned)
#   restart  starts again what stop or kill left in DIR, on the same port
#   password with BROKER_SECURITY: gives the user coldstream the one in DIR/tls/password, for SCRAM
#   fetch    only makes sure that the jars are there
# The jars come by Maven (tests/kafka/pom.xml) once and stay in $COLDSTREAM_CACHE, default ~/.cache/coldstream.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
version=${KAFKA_VERSION:-$(sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' "$here/pom.xml")}
jars=${COLDSTREAM_CACHE:-$HOME/.cache/coldstream}/kafka-$version
heap=${KAFKA_HEAP:-256m}

fetch() {
    [ -e "$jars/.complete" ] && return
    command -v mvn >/dev/null || { echo "broker.sh: Maven is missing: tools/setup.sh kafka" >&2; exit 1; }
    mkdir -p "$jars"
    echo "fetching Apache Kafka $version (once)" >&2
    local log; log=$(mktemp)
    (
        flock 9
        [ -e "$jars/.complete" ] && exit 0
        for _ in 1 2 3; do
            timeout 300 mvn -q -B "-Dkafka.version=$version" -f "$here/pom.xml" dependency:copy-dependencies -DoutputDirectory="$jars" >"$log" 2>&1 </dev/null &&
                { touch "$jars/.complete"; exit 0; }
            sleep 2
        done
        cat "$log" >&2
        exit 1
    ) 9>"$jars/.lock"
    rm -f "$log"
}

free_ports() { python3 -c 'import socket
held = [socket.socket() for _ in range(5)]
for s in held: s.bind(("127.0.0.1", 0))
print(*[s.getsockname()[1] for s in held])'; }

# Few and short: the JVM's own work competes with what is tested on two cores.
run_java() { java -Xms64m "-Xmx$heap" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData -Xshare:auto \
                -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$jars/*" "$@"; }

# One that ended, and that nobody has asked for its status yet, is still there for kill -0.
alive() { [ -s "$1/pid" ] && grep -q '^State:[[:space:]]*[^ZX]' "/proc/$(cat "$1/pid")/status" 2>/dev/null; }

launch() {  # DIR: starts the formatted broker, waits for its answer
    local dir=$1 waited=0 address
    address=$(cat "$dir/address")
    ( cd "$dir"; exec setsid java -Xms64m "-Xmx$heap" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData \
          "-Dorg.slf4j.simpleLogger.defaultLogLevel=${KAFKA_LOG_LEVEL:-warn}" -Dorg.slf4j.simpleLogger.showDateTime=true \
          -cp "$jars/*" kafka.Kafka "$dir/server.properties" >>"$dir/broker.log" 2>&1 </dev/null ) &
    echo $! >"$dir/pid"
    until kcat -L -b "$address" -m 1 >/dev/null 2>&1; do
        alive "$dir" || { echo "broker.sh: Kafka ended while starting:" >&2; tail -n 30 "$dir/broker.log" >&2; exit 1; }
        waited=$((waited + 1))
        [ "$waited" -lt 90 ] || { echo "broker.sh: Kafka gave no answer in 90 tries" >&2; tail -n 30 "$dir/broker.log" >&2; exit 1; }
        sleep 0.5
    done
}

start() {
    local dir=$1 broker controller plain tls mutual scram=()
    mkdir -p "$dir"; dir=$(cd "$dir" && pwd)
    fetch
    read -r broker controller plain tls mutual < <(free_ports)
    echo "127.0.0.1:$broker" >"$dir/address"
    cat >"$dir/server.properties" <<-PROPERTIES
	process.roles=broker,controller
	node.id=1
	controller.quorum.bootstrap.servers=127.0.0.1:$controller
	listeners=PLAINTEXT://127.0.0.1:$broker,CONTROLLER://127.0.0.1:$controller
	advertised.listeners=PLAINTEXT://127.0.0.1:$broker
	controller.listener.names=CONTROLLER
	log.dirs=$dir/data
	num.partitions=1
	auto.create.topics.enable=true
	offsets.topic.replication.factor=1
	offsets.topic.num.partitions=1
	transaction.state.log.replication.factor=1
	transaction.state.log.min.isr=1
	transaction.state.log.num.partitions=1
	group.initial.rebalance.delay.ms=0
	broker.session.timeout.ms=2000
	broker.heartbeat.interval.ms=500
	controller.quorum.election.timeout.ms=500
	controller.quorum.fetch.timeout.ms=1000
	num.network.threads=2
	num.io.threads=2
	background.threads=2
	log.cleaner.enable=false
	message.max.bytes=20000000
	file.delete.delay.ms=100
	PROPERTIES
    if [ -n "${BROKER_SECURITY:-}" ]; then
        "$here/certificates.sh" "$dir/tls"
        secure "$dir" "$broker" "$controller" "$plain" "$tls" "$mutual" >>"$dir/server.properties"
        scram=(--add-scram "SCRAM-SHA-512=[name=coldstream,password=$(cat "$dir/tls/password"),iterations=4096]")
    fi
    run_java kafka.tools.StorageTool format --standalone -t "$(run_uuid)" -c "$dir/server.properties" "${scram[@]}" >"$dir/format.log" 2>&1 ||
        { cat "$dir/format.log" >&2; exit 1; }
    launch "$dir"
    echo "127.0.0.1:$broker"
}

# Listeners that ask who is there. Later lines of a properties file replace earlier ones.
secure() {  # DIR BROKER CONTROLLER PLAIN TLS MUTUAL
    local jaas="org.apache.kafka.common.security.scram.ScramLoginModule required;"
    local plain="org.apache.kafka.common.security.plain.PlainLoginModule required"
    echo "127.0.0.1:$4 127.0.0.1:$5 127.0.0.1:$6" >"$1/secure"
    cat <<-PROPERTIES
	listeners=PLAINTEXT://127.0.0.1:$2,CONTROLLER://127.0.0.1:$3,SCRAM://127.0.0.1:$4,TLS://127.0.0.1:$5,MUTUAL://127.0.0.1:$6
	advertised.listeners=PLAINTEXT://127.0.0.1:$2,SCRAM://127.0.0.1:$4,TLS://127.0.0.1:$5,MUTUAL://127.0.0.1:$6
	listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SCRAM:SASL_PLAINTEXT,TLS:SASL_SSL,MUTUAL:SSL
	sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN
	listener.name.scram.sasl.enabled.mechanisms=SCRAM-SHA-512
	listener.name.scram.scram-sha-512.sasl.jaas.config=$jaas
	listener.name.tls.plain.sasl.jaas.config=$plain user_coldstream="$(cat "$1/tls/password")";
	listener.name.tls.scram-sha-512.sasl.jaas.config=$jaas
	listener.name.mutual.ssl.client.auth=required
	ssl.keystore.type=PEM
	ssl.keystore.location=$1/tls/broker.pem
	ssl.truststore.type=PEM
	ssl.truststore.location=$1/tls/ca.crt
	authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
	super.users=User:ANONYMOUS
	allow.everyone.if.no.acl.found=false
	PROPERTIES
}

set_password() {  # DIR
    run_java kafka.admin.ConfigCommand --bootstrap-server "$(cat "$1/address")" --alter --entity-type users --entity-name coldstream \
        --add-config "SCRAM-SHA-512=[iterations=4096,password=$(cat "$1/tls/password")]" >"$1/password.log" 2>&1 ||
        { cat "$1/password.log" >&2; exit 1; }
}

# Kafka's cluster ids are 16 bytes in URL-safe base64 without padding.
run_uuid() { head -c 16 /dev/urandom | base64 | tr '+/' 'Ab' | tr -d '='; }

end() {     # DIR SIGNAL
    local dir=$1 waited=0
    alive "$dir" || { rm -f "$dir/pid"; return 0; }
    kill "-$2" "$(cat "$dir/pid")"
    while alive "$dir"; do
        waited=$((waited + 1))
        [ "$waited" -lt 150 ] || kill -9 "$(cat "$dir/pid")" 2>/dev/null || :
        sleep 0.2
    done
    rm -f "$dir/pid"
}

case ${1:-} in
fetch)   fetch ;;
start)   start "${2:?DIR}" ;;
stop)    end "${2:?DIR}" TERM ;;
kill)    end "${2:?DIR}" KILL ;;
restart) end "${2:?DIR}" TERM; launch "$(cd "$2" && pwd)" ;;
address) cat "${2:?DIR}/address" ;;
password) set_password "${2:?DIR}" ;;
*)       sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
