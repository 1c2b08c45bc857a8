#!/bin/bash
# client.sh logs in, calls the API and logs out. It needs curl and jq.
#
#   CLIENT_SECRET=... LOGIN_USER=alice LOGIN_PASSWORD=... ./client.sh login
#   CLIENT_SECRET=... ./client.sh get https://api.example.com/
#   CLIENT_SECRET=... ./client.sh logout

set -euo pipefail
umask 077
tokens=${XDG_STATE_HOME:-$HOME}/.app-tokens.json

# One process at a time: a refresh token works once, and a second use would end the login.
exec 9>"$tokens.lock"
flock 9

die() { printf '%s\n' "$1" >&2; exit 1; }

# post PATH FIELD... passes secrets by file descriptors: everybody on a machine can read the arguments of a program.
post() {
    curl --silent --show-error --fail-with-body --max-time 10 "${@:2}" -d client_id=app \
        --data-urlencode client_secret@<(printf %s "$CLIENT_SECRET") "https://auth.example.com/$1"
}

# save ANSWER replaces the token file atomically.
save() {
    jq '. + {expires_at: (now + .expires_in)}' <<<"$1" >"$tokens.new"
    mv "$tokens.new" "$tokens"
}

login() {
    answer=$(post token -d grant_type=password --data-urlencode username@<(printf %s "$LOGIN_USER") \
        --data-urlencode password@<(printf %s "$LOGIN_PASSWORD")) || die "Not logged in: $answer"
    save "$answer"
}

# Only invalid_grant means that the login is over. After any other failure the refresh token still works.
refresh() {
    answer=$(post token -d grant_type=refresh_token --data-urlencode refresh_token@<(jq -j .refresh_token "$tokens")) || {
        [[ $answer == *'"invalid_grant"'* ]] || die "Not refreshed, try again later: $answer"
        rm "$tokens"
        die "The login has ended: log in again."
    }
    save "$answer"
}

# call URL prints the response, with its status on a line of its own.
call() {
    curl --silent --show-error --max-time 30 -w '\n%{http_code}' -H @<(jq -r '"Authorization: Bearer " + .access_token' "$tokens") "$1"
}

# An early 401: the key of the token may have been revoked, but the login may still be valid.
get() {
    [ -e "$tokens" ] || die "Log in first."
    jq -e '.expires_at < now + 5' "$tokens" >/dev/null && refresh
    answer=$(call "$1")
    [ "${answer##*$'\n'}" != 401 ] || { refresh && answer=$(call "$1"); }
    printf '%s\n' "${answer%$'\n'*}"
    [[ ${answer##*$'\n'} == 2* ]] || die "The API answered ${answer##*$'\n'}."
}

logout() {
    post revoke --data-urlencode token@<(jq -j .refresh_token "$tokens") >/dev/null
    rm "$tokens"
}

case ${1-} in
    login | logout) "$1" ;;
    get) get "$2" ;;
    *) die "usage: client.sh login | get URL | logout" ;;
esac
