# SPDX-License-Identifier: Apache-2.0
#
# bash completion for psp-proxy(1): options as --help lists them, and what some of them take.
# shellcheck shell=bash

_psp_proxy() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
  case $before in
    --policy) mapfile -t COMPREPLY < <(compgen -W 'required preferred' -- "$word") ;;
    --psp-version) mapfile -t COMPREPLY < <(compgen -W 'hdr0-aes-gcm-128 hdr0-aes-gcm-256' -- "$word") ;;
    --cert | --key | --ca | --psk-file | --stats-socket)
      compopt -o filenames 2>/dev/null
      mapfile -t COMPREPLY < <(compgen -f -- "$word")
      ;;
    --listen | --listen-psp | --to | --peer-name | --max-connections | --half-open | --half-open-source | --timeout | \
      --retire-idle | --drain | --threads | --stats-interval | --socket) COMPREPLY=() ;;
    *)
      mapfile -t COMPREPLY < <(compgen -W "$(command "${COMP_WORDS[0]}" --help 2>/dev/null |
        grep -oE -e '--[a-z][a-z-]+' | sort -u)" -- "$word")
      ;;
  esac
}
complete -F _psp_proxy psp-proxy
