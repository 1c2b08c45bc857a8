#!/bin/bash
# check.sh checks that the token in $ACCESS_TOKEN is active for this API, and prints what keyturn knows about it.
# Exit code 0: active. 1: not active. Anything else: the check failed, so refuse the request.
#
#   ACCESS_TOKEN=... API_SECRET=... ./check.sh

# Everybody on a machine can read the arguments of a program, so pass secrets to curl by file descriptors.
answer=$(curl --silent --show-error --fail --max-time 5 -d client_id=api \
    --data-urlencode client_secret@<(printf %s "$API_SECRET") \
    --data-urlencode token@<(printf %s "$ACCESS_TOKEN") \
    https://auth.example.com/introspect) || exit 2

# No string in the JSON can match, because its quotes would be escaped.
case $answer in
    *'"active":true'*) printf '%s\n' "$answer" ;;
    *'"active":false'*) exit 1 ;;
    *) exit 2 ;;
esac
