#!/bin/sh
# A program that answers for a table of aliases: table-live PATH, where PATH has a key and its value on each line.
#
#   key slow    is not answered before PATH.gate is there, and nothing behind it either
#   key die     is the end of the program

while IFS= read -r line; do
    case $line in
    'config|ready')
        printf 'register|alias\nregister|ready\n'
        ;;
    'table|'*'|lookup|alias|'*)
        rest=${line#*|lookup|alias|}
        id=${rest%%|*} key=${rest#*|} found=
        case $key in
        slow) while [ ! -e "$1.gate" ]; do sleep 0.05; done ;;
        die) exit 3 ;;
        esac
        while read -r name value; do
            [ "$name" = "$key" ] && found="found|$value"
        done <"$1"
        printf '%s\n' "lookup-result|$id|${found:-not-found}"
        ;;
    esac
done
