#!/bin/sh
# Makes .env for compose.yaml, or adds to it what it lacks. What is there stays as it is.
set -eu
cd "$(dirname "$0")/.."
umask 077
[ -e .env ] || cp deploy/compose.env.example .env
[ -z "$(tail -c 1 .env)" ] || echo >>.env # its last line has no end

random() { head -c 32 /dev/urandom | base64 | tr '+/' '-_'; } # 44 characters: the form of a Fernet key
password() { random | tr -d '='; }
add() { grep -q "^$1=." .env || echo "$1=$2" >>.env; }

add POSTGRES_PASSWORD "$(password)"
add REDIS_PASSWORD "$(password)"
add CREDENTIALS_KEYS "$(random)"
add FLOWER_BASIC_AUTH "admin:$(password)"
add METRICS_TOKEN "$(password)"
chmod 600 .env
