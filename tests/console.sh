# SPDX-License-Identifier: MIT OR Apache-2.0
# The console by hand: a person at a terminal, programs that type, noise on the wire. Sourced by machines.sh.

lacks() { ! grep -qE "$1" <<<"$said" || complain "it says: $1"; }

# What a terminal of ten lines answers when it is asked for its size, in front of what is typed first.
ten_lines='\033[10;80R\177'

pages() {
    types "$ten_lines"'help\r@ @\r@qexit 5\r' 5 '^--more--' || return
    [ "$(grep -o -e --more-- <<<"$said" | wc -l)" = 3 ] || complain "not three pages and lines"
    lacks 'COMMAND; COMMAND runs both'
}

watches() {
    types "$ten_lines"'watch 0.2 free -h | grep Swap\r@@ exit 5\r' 5 'Swap:' || return
    [ "$(grep -c Swap: <<<"$said")" -ge 3 ] || { complain "fewer than three rounds"; return; }
    lacks Mem:
}

# Whatever comes, the console is there afterwards. Ctrl-A would be QEMU's.
flooded() { # BYTES [NAME=VALUE...]
    local bytes=$1
    shift
    head -c "$bytes" /dev/urandom | tr -d '\001' >"$work/noise"
    said=$( (sleep 2; cat "$work/noise"; printf '\003\r\n\rexit 7\r'; sleep 1) | env "$@" firmware/tools/qemu.sh "$elf" 2>&1 | tr -d '\0')
    local got=${PIPESTATUS[0]}
    grep -q '^quire> exit 7' <<<"$said" || { cp "$work/noise" target/console-noise; complain "noise kept in target/console-noise"; }
}

step "keyboard: editing" types 'ho XY\001\001ec\033[F\177\177ok yes\0331\033b\013\r\025exit 5\r' 5 '^ok ?$'
step "keyboard: history" types 'echo one\rfree\r\033[A\033[A two\r\020\016\025exit 5\r' 5 '^one two$'
step "keyboard: completion" types 'ca\t/proc/bud\t\rexit 5\r' 5 '^Node 0, zone +Normal'
step "keyboard: the choices" types 'e\t\t\025exit 5\r' 5 '^echo +exit'
step "keyboard: Ctrl-C" types 'watch 0.1 free\r@\003exit 5\r' 5 '^Every 0.1s: free'
step "keyboard: pages" pages
step "keyboard: watch" watches
step "keyboard: nobody to ask, so no pages" types 'help; help\rexit 5\r' 5 'COMMAND; COMMAND runs both'
step "keyboard: CR, LF and both" types 'echo a\necho b\r\necho c\r\n\nexit 5\n' 5 '^c$'
step "keyboard on the mini UART" types 'echp\177o one\r\033[A two\rexit 5\r' 5 '^one two$' BOARD=rpi4
step "noise" flooded 30000
step "noise on the mini UART" flooded 10000 BOARD=rpi4

step "grep" expects 0 '^MemFree' "meminfo | grep -i ^MEMf; exit"
step "grep: only that" lacks ^MemTotal
step "grep that finds nothing" expects 1 '' "meminfo | grep nothing; exit"
step "dmesg" expects 0 '^\[    [0-9]\.[0-9]{6}\] Quire' "dmesg | grep 'Quire '; exit" APPEND=quiet
step "quiet" lacks '^Quire'
step "loglevel=" expects 0 "^2	6	1	7" "cat /proc/sys/kernel/printk; exit" APPEND=loglevel=2
step "uptime" expects 0 '^up [0-9]+ seconds?$' "uptime; cat /proc/uptime; exit"
records() { # [NAME=VALUE...]: text and records come apart, and neither is lost
    console "meminfo; nonsense; exit 3" "$@"
    local got=$? text
    [ $got = 3 ] || { complain "status $got"; return; }
    for text in '^MemTotal:' '^Quire ' '^memory: largest' '^\[ +[0-9.]+\] info  memory: [0-9]+ bytes, ' \
        '\] info  boot: done after [0-9]+ ns$' '\] debug console: meminfo: true$' '\] debug console: nonsense: false$'; do
        grep -qE "$text" <<<"$said" || { complain "it does not say: $text"; return; }
    done
    ! grep -qP '[^\t\n -~]' <<<"$said" || complain "something is left of the frames"
}

captured() { # what was kept of a boot reads the same later
    LOG_FILE=$work/capture records LOG=1 || return
    local later
    later=$(firmware/tools/decode-log "$elf" <"$work/capture" | tr -d '\r')
    [ "$later" = "$said" ] || complain "decoded later, it is not the same"
}

step "records between the text" records LOG=1
step "records on a port of their own" records LOG_UART=1
step "records on the mini UART" records LOG=1 BOARD=rpi4
step "records kept for later" captured
step "records on a port that is not there" expects 0 'log: no port ttyS7 besides the console' exit APPEND=log=defmt,ttyS7
step "poweroff" expects 0 '' "poweroff"
step "a machine that hangs is ended" expects 124 'no end within 3 s; the last line was: quire> $' help TIMEOUT=3
step "a question that nobody answers" types "$ten_lines"'help\r' 124 'the last line was: --more--$' TIMEOUT=5
