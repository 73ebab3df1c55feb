#!/usr/bin/env bash
# Prints public events, one JSON object a line, and acknowledges each that it has printed.
#
#   follow-events.sh HOST PORT CONSUMER [COUNT]
#
# Needs nothing but bash: it speaks the NATS protocol itself.
set -euo pipefail
host=$1 port=$2 consumer=$3 left=${4:--1}
request='{"batch":100,"expires":30000000000}' asked=0

exec 3<>"/dev/tcp/$host/$port"
send() { printf '%s\r\n' "$@" >&3; }
ask() {
    send "PUB \$JS.API.CONSUMER.MSG.NEXT.TEPHRA_EVENTS.$consumer _INBOX.$consumer.$$ ${#request}" "$request"
    asked=100
}

send 'CONNECT {"verbose":false,"headers":true,"no_responders":true}' "SUB _INBOX.$consumer.$$ 1"
ask
while [ "$left" != 0 ]; do
    IFS= read -r line <&3 || { echo 'the server has closed the connection' >&2; exit 1; }
    case $line in
        PING*) send PONG ;;
        -ERR*) echo "$line" >&2; exit 1 ;;
        HMSG*)
            read -r _ _ _ reply _ total <<<"${line%$'\r'}"
            IFS= read -r status <&3
            while IFS= read -r header <&3 && [ "$header" != $'\r' ]; do :; done
            IFS= read -r event <&3
            if [ -z "$total" ]; then   # no event: 408 is the end of the request's time
                [[ $status == *" 408"* ]] || { echo "$status" >&2; exit 1; }
                ask
                continue
            fi
            printf '%s\n' "${event%$'\r'}"
            send "PUB $reply 4" '+ACK'
            left=$((left - 1)) asked=$((asked - 1))
            [ "$asked" != 0 ] || ask
            ;;
    esac
done
send PING   # the answer says that the last acknowledgement has arrived
until [[ $line == PONG* ]]; do IFS= read -r line <&3; done
