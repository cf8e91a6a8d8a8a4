#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# stage.sh NAME MINUTES COMMAND...: run one stage of the tests, say its time budget and what it took.
name=$1 budget=$2
shift 2
begun=$(date +%s)
echo "=== $name (budget $budget min): $*"
"$@" || { status=$?; echo "=== $name FAILED after $(($(date +%s) - begun)) s"; exit $status; }
took=$(($(date +%s) - begun))
echo "=== $name took $took s of $((budget * 60))"
