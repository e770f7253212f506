# SPDX-License-Identifier: Apache-2.0
#
# bash completion for pspctl(8). Devices and versions are those that pspctl -j shows now. Needs
# nothing of the bash-completion package. shellcheck shell=bash

# Answers of pspctl, where the command line so far says that they come from.
_pspctl_json() { command "${_pspctl_command[@]}" -j "$@" 2>/dev/null; }

_pspctl_devices() { _pspctl_json dev show | grep -o '"id":[0-9]*,"ifname":"[^"\\]*"' | cut -d'"' -f6 | sort -u; }

# _pspctl_versions DEVICE...: those that the device can, or all that there are.
_pspctl_versions() {
  local names
  names=$(_pspctl_json dev show "$@" | grep -o '"psp-versions-cap":\[[^]]*\]' | cut -d: -f2)
  if [[ -n $names ]]; then
    tr -d '[]"' <<<"$names" | tr ',' '\n' | sort -u
  else
    printf 'hdr0-aes-%s\n' gcm-128 gcm-256 gmac-128 gmac-256
  fi
}

# Names below a directory: network namespaces, netdevs.
_pspctl_names() {
  local path
  for path in "$1"/*; do [[ -e $path ]] && echo "${path##*/}"; done
}

# _pspctl_full WORD CANDIDATE...: the word that WORD abbreviates: the first that fits, as in pspctl.
_pspctl_full() {
  local word=$1 candidate
  shift
  for candidate; do [[ $candidate == "$word" ]] && echo "$candidate" && return; done
  for candidate; do [[ $candidate == "$word"* ]] && echo "$candidate" && return; done
}

_pspctl_nouns=(dev key assoc stats monitor doctor netlink run capture)
_pspctl_operations=(dev-get dev-set key-rotate rx-assoc tx-assoc get-stats dev-assoc dev-disassoc)

_pspctl_verbs() {
  case $1 in
    dev) echo show set assoc disassoc help ;;
    key) echo rotate help ;;
    assoc | stats) echo show help ;;
  esac
}

# _pspctl_device WORD...: what may follow where a device is being named; fails once it is.
_pspctl_device() {
  [[ ${1-} == dev ]] && shift
  case $# in
    0) echo dev id && _pspctl_devices ;;
    1) [[ $1 == id ]] && _pspctl_json dev show | grep -o '"id":[0-9]*' | cut -d: -f2 ;;
    *) return 1 ;;
  esac
}

# _pspctl_after_device WORD...: the words behind the device, one a line.
_pspctl_after_device() {
  [[ ${1-} == dev ]] && shift
  [[ ${1-} == id ]] && shift
  shift
  (($#)) && printf '%s\n' "$@"
}

# _pspctl_dev VERB WORD...: candidates for the next word.
_pspctl_dev() {
  local verb=$1 rest
  shift
  _pspctl_device "$@" && return
  [[ $verb == show ]] && return
  mapfile -t rest < <(_pspctl_after_device "$@")
  case $verb:${#rest[@]}:${rest[*]: -1} in
    set:0:*) echo psp-versions-ena ;;
    set:1:*) echo all none && _pspctl_versions "${@:1:$#-1}" ;;
    *:0:*) echo netdev ;;
    *:1:*) _pspctl_names /sys/class/net ;;
    *:2:*) echo netns nsid pid ;;
    *:3:netns) _pspctl_names /run/netns ;;
    *:3:pid) _pspctl_names /proc | grep '^[0-9]' ;;
  esac
}

_pspctl_assoc() {
  case ${*: -1} in
    state) echo rx tx full ;;
    version) _pspctl_versions ;;
    dev) echo id && _pspctl_devices ;;
    local | peer | port | sport | dport | id) ;;
    *) echo dev state stale version local peer port sport dport ;;
  esac
}

# _pspctl_candidates WORD...: for the next word of `pspctl WORD...`, options left out.
_pspctl_candidates() {
  (($#)) || { echo "${_pspctl_nouns[@]}" help; return; }
  local noun verb
  noun=$(_pspctl_full "$1" "${_pspctl_nouns[@]}")
  shift
  if [[ -n $(_pspctl_verbs "$noun") ]]; then
    (($#)) || { _pspctl_verbs "$noun"; return; }
    # shellcheck disable=SC2046  # one word a verb
    verb=$(_pspctl_full "$1" $(_pspctl_verbs "$noun"))
    shift
  fi
  case $noun:$verb in
    dev:help | *:help) ;;
    dev:*) _pspctl_dev "$verb" "$@" ;;
    key:*) _pspctl_device "$@" ;;
    stats:* | doctor:) _pspctl_device "$@" ;;
    assoc:*) _pspctl_assoc "$@" ;;
    monitor:) (($#)) && echo count || echo mgmt use all count ;;
    netlink:) (($#)) || echo "${_pspctl_operations[@]}" ;;
  esac
}

_pspctl_options() {
  echo --json --pretty --statistics --details --timestamp --oneline --color= --netns --socket \
    --version --help
  case $1 in
    doctor) echo --peer ;;
    netlink) echo --dump --show-keys ;;
    capture) echo --dev --write --count --duration --snaplen --filter --port --buffer --key-log --failed ;;
  esac
}

_pspctl() {
  local current=${COMP_WORDS[COMP_CWORD]} words=() candidates at noun='' prefix=''
  _pspctl_command=("${COMP_WORDS[0]}")
  for ((at = 1; at < COMP_CWORD; at++)); do
    case ${COMP_WORDS[at]} in
      -n | -netns | --netns | --socket | --peer | --json | -w | --write | --dev | --count | --duration | \
        --snaplen | --filter | --port | --buffer | --key-log)
        [[ ${COMP_WORDS[at]} == --json && $noun != netlink ]] && continue
        ((at + 1 < COMP_CWORD)) || break
        [[ ${COMP_WORDS[at]} != @(-n|-netns|--netns|--socket) ]] ||
          _pspctl_command+=("${COMP_WORDS[at]}" "${COMP_WORDS[at + 1]}")
        at=$((at + 1))
        ;;
      -*) ;;
      *)
        words+=("${COMP_WORDS[at]}")
        [[ -n $noun ]] || noun=$(_pspctl_full "${words[0]}" "${_pspctl_nouns[@]}")
        if [[ $noun == run ]]; then
          at=$((at + 1))
          [[ ${COMP_WORDS[at]} == -- ]] && at=$((at + 1))
          _pspctl_program "$at"
          return
        fi
        ;;
    esac
  done
  if ((at < COMP_CWORD)); then # the value of an option
    case ${COMP_WORDS[at]} in
      -n | *netns) candidates=$(_pspctl_names /run/netns) ;;
      --dev) candidates=$(_pspctl_names /sys/class/net) ;;
      -w | --write | --key-log) candidates=$(compgen -f -- "$current") ;;
      *) candidates= ;;
    esac
  elif [[ $current == -* ]]; then
    candidates=$(_pspctl_options "$noun")
  else
    candidates=$(_pspctl_candidates "${words[@]}")
  fi
  if [[ $current == *,* && ${words[*]: -1} == psp-versions-ena ]]; then
    prefix=${current%,*},
    current=${current##*,}
  fi
  mapfile -t COMPREPLY < <(compgen -P "$prefix" -W "$candidates" -- "$current")
  [[ ${COMPREPLY[0]-} == *= ]] && compopt -o nospace 2>/dev/null
}

# _pspctl_program AT: the command line from word AT on is that of another program.
_pspctl_program() {
  if declare -F _command_offset >/dev/null; then
    _command_offset "$1"
  elif ((COMP_CWORD <= $1)); then
    mapfile -t COMPREPLY < <(compgen -c -- "${COMP_WORDS[COMP_CWORD]}")
  else
    mapfile -t COMPREPLY < <(compgen -f -- "${COMP_WORDS[COMP_CWORD]}")
  fi
}

complete -F _pspctl pspctl
