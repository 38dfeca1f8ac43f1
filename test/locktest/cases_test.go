package locktest

import "strings"

// A testCase is a line of shell in which $FLOCK is a flock program.
type testCase struct {
	script string
	scenes []scene
	env    []string
}

// lines makes a case of each line.
func lines(scenes []scene, text string) []testCase {
	var list []testCase
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			list = append(list, testCase{script: line, scenes: scenes})
		}
	}
	return list
}

var alone = []scene{free}

// usage are command lines that are wrong, and some that look like it. Where there
// is no lock to be had none must be taken and no file made.
const usage = `
$FLOCK
$FLOCK ''
$FLOCK x
$FLOCK -n
$FLOCK -u
$FLOCK -c
$FLOCK -c true
$FLOCK -c true F
$FLOCK F
$FLOCK F -c
$FLOCK F -c a b
$FLOCK F -c -- true
$FLOCK F --command
$FLOCK F --command a b
$FLOCK -E
$FLOCK -E x F true
$FLOCK -E '' F true
$FLOCK -E 300 F true
$FLOCK -E 256 F true
$FLOCK -E -1 F true
$FLOCK -E 0x10 F true
$FLOCK -E 5k F true
$FLOCK -E '5 ' F true
$FLOCK -E 2147483648 F true
$FLOCK -E 99999999999999999999 F true
$FLOCK -w
$FLOCK -w x F true
$FLOCK -w '' F true
$FLOCK -w . F true
$FLOCK -w 1s F true
$FLOCK -w 1,5 F true
$FLOCK -w '1 ' F true
$FLOCK -w 1_0 F true
$FLOCK -w 0x F true
$FLOCK -w e5 F true
$FLOCK -w -1 F true
$FLOCK -w -0.5 F true
$FLOCK -w -1 0
$FLOCK -w inf F true
$FLOCK -w nan F true
$FLOCK -w 1e400 F true
$FLOCK -w 99999999999999999999 F true
$FLOCK -n -w -1 F true
$FLOCK -w 1 -w x F true
$FLOCK -w x -w 1 F true
$FLOCK -w -1 -w 1 F true
$FLOCK -w -1 /nonexistent/F true
$FLOCK -oF F true
$FLOCK -F -o F true
$FLOCK --close --no-fork 9
$FLOCK --start x F true
$FLOCK --start '' F true
$FLOCK --start -1 F true
$FLOCK --start -0 F true
$FLOCK --start '5 ' F true
$FLOCK --start 1.5 F true
$FLOCK --start 1e3 F true
$FLOCK --start K F true
$FLOCK --start 1B F true
$FLOCK --start 1Ki F true
$FLOCK --start '1 K' F true
$FLOCK --start .5K F true
$FLOCK --start 8E F true
$FLOCK --start 16E F true
$FLOCK --start 1Z F true
$FLOCK --start 1Q F true
$FLOCK --start 9223372036854775808 F true
$FLOCK --start 18446744073709551615 F true
$FLOCK --start 18446744073709551616 F true
$FLOCK --length -1 F true
$FLOCK --length x F true
$FLOCK --length 8E F true
$FLOCK --start 9223372036854775807 --length 2 F true
$FLOCK -q
$FLOCK -?
$FLOCK --bogus
$FLOCK --bogus=1 F true
$FLOCK --fcntl=1 F true
$FLOCK --c F true
$FLOCK --co F true
$FLOCK --no F true
$FLOCK --n F true
$FLOCK --s F true
$FLOCK --v F true
$FLOCK --ver F true
$FLOCK --u F
$FLOCK --fa F true
$FLOCK --na x F true
$FLOCK --re 1 F true
$FLOCK -1
$FLOCK -- -1
$FLOCK 3
$FLOCK 99
$FLOCK 255
$FLOCK 0x0
$FLOCK '0 '
$FLOCK 0k
$FLOCK 9a
$FLOCK 1.0
$FLOCK 2147483648
$FLOCK 4294967296
$FLOCK 99999999999999999999
$FLOCK -- 9
$FLOCK -E x -V
$FLOCK -h x >/dev/null
$FLOCK --help -E x >/dev/null
$FLOCK -V -E x >/dev/null
$FLOCK --version >/dev/null
$FLOCK --help >/dev/full
$FLOCK --version >/dev/full
`

// numbers are ways to write them, seen in the line of the lock.
const numbers = `
$FLOCK --start 10 F ./probe
$FLOCK --start 0x10 F ./probe
$FLOCK --start 0X1f F ./probe
$FLOCK --start 010 F ./probe
$FLOCK --start 08 F ./probe
$FLOCK --start ' 5' F ./probe
$FLOCK --start +5 F ./probe
$FLOCK --start 0 F ./probe
$FLOCK --start 00 F ./probe
$FLOCK --start 1K F ./probe
$FLOCK --start 1k F ./probe
$FLOCK --start 1KiB F ./probe
$FLOCK --start 1kib F ./probe
$FLOCK --start 1KB F ./probe
$FLOCK --start 1kb F ./probe
$FLOCK --start 2M F ./probe
$FLOCK --start 2MB F ./probe
$FLOCK --start 1G F ./probe
$FLOCK --start 1T F ./probe
$FLOCK --start 1P F ./probe
$FLOCK --start 1E F ./probe
$FLOCK --start 7EiB F ./probe
$FLOCK --start 1.5K F ./probe
$FLOCK --start 1.K F ./probe
$FLOCK --start 1.5KB F ./probe
$FLOCK --start 1.5M F ./probe
$FLOCK --start 1.25G F ./probe
$FLOCK --start 0x1K F ./probe
$FLOCK --start 010K F ./probe
$FLOCK --start 0.1K F ./probe
$FLOCK --start 9223372036854775807 F ./probe
$FLOCK --start 9223372036854775806 --length 1 F ./probe
$FLOCK --length 1 F ./probe
$FLOCK --length 0 F ./probe
$FLOCK --length 1K F ./probe
$FLOCK --length 9223372036854775807 F ./probe
$FLOCK --start 5 --length 0 F ./probe
$FLOCK --start 5 --length 7 F ./probe
$FLOCK -s --start 5 --length 7 F ./probe
$FLOCK --start 5 --start 6 F ./probe
$FLOCK --start=5 --length=7 F ./probe
$FLOCK --sta 5 --len 7 F ./probe
$FLOCK -w 1 F ./probe
$FLOCK -w1 F ./probe
$FLOCK -nw1 F ./probe
$FLOCK -w 1.5 F ./probe
$FLOCK -w 1. F ./probe
$FLOCK -w .5 F ./probe
$FLOCK -w ' 1' F ./probe
$FLOCK -w +1 F ./probe
$FLOCK -w 1e3 F ./probe
$FLOCK -w 1E3 F ./probe
$FLOCK -w 0x10 F ./probe
$FLOCK -w 0x1p-3 F ./probe
$FLOCK -w 0 F ./probe
$FLOCK -w -0 F ./probe
$FLOCK -w 0.0 F ./probe
$FLOCK -w 1e-7 F ./probe
$FLOCK -w -1e-9 F ./probe
$FLOCK -w 1e-400 F ./probe
$FLOCK -w 2147483648 F ./probe
$FLOCK -w 9e18 F ./probe
$FLOCK -E 0 F ./probe
$FLOCK -E ' 5' F ./probe
$FLOCK -E +5 F ./probe
$FLOCK -E 007 F ./probe
$FLOCK -E -0 F ./probe
$FLOCK -E255 F ./probe
`

// words are shortened forms and the end of options.
const words = `
$FLOCK --sh F ./probe
$FLOCK --e F ./probe
$FLOCK --ex F ./probe
$FLOCK --nb F ./probe
$FLOCK --nonb F ./probe
$FLOCK --nonblock F ./probe
$FLOCK --non F ./probe
$FLOCK --no-f F ./probe
$FLOCK --cl F ./probe
$FLOCK --con 3 F ./probe
$FLOCK --conflict-exit-code=3 F ./probe
$FLOCK --f F ./probe
$FLOCK --fc F ./probe
$FLOCK --l 1 F ./probe
$FLOCK --st 1 F ./probe
$FLOCK --t 1 F ./probe
$FLOCK --wa 1 F ./probe
$FLOCK --w=1 F ./probe
$FLOCK --timeout=1 F ./probe
$FLOCK --un F ./probe
$FLOCK -- F ./probe
$FLOCK -n -- F ./probe
$FLOCK F -- ./probe
$FLOCK F ./probe -n -- -x
$FLOCK F -n ./probe
$FLOCK -sxeunF F ./probe
$FLOCK -xs F ./probe
$FLOCK -us F ./probe
$FLOCK -su F ./probe
$FLOCK -ux F ./probe
$FLOCK -e -u F ./probe
`

// files are what can be locked, and what cannot.
const files = `
$FLOCK . ./probe
$FLOCK ./ ./probe
$FLOCK -s . ./probe
$FLOCK -o . ./probe
$FLOCK -F . ./probe
$FLOCK --fcntl . ./probe
$FLOCK --fcntl -s . ./probe
$FLOCK /dev/null ./probe
$FLOCK /proc/self/status ./probe
$FLOCK '' true
$FLOCK /nonexistent/F true
$FLOCK --fcntl /nonexistent/F true
$FLOCK nodir/ true
$FLOCK F/x true
touch F; $FLOCK F/ true
touch F; $FLOCK F/x true
mkdir D; $FLOCK D ./probe
mkdir D; $FLOCK D/ ./probe
mkdir D; $FLOCK D/F true
ln -s F L; $FLOCK L ./probe
ln -s nodir/F L; $FLOCK L true
ln -s L L; $FLOCK L true
touch T; ln -s T F; $FLOCK F ./probe; ls -l F | cut -c1
ln -s . L; $FLOCK L ./probe
$FLOCK 9 true; ls
$FLOCK 1 ./probe; ls
$FLOCK -x 0 true; ls
$FLOCK "$(printf 'a\nb')" true; ls -b
$FLOCK "$(head -c 255 /dev/zero | tr '\0' x)" true
$FLOCK "$(head -c 256 /dev/zero | tr '\0' x)" true
umask 077; $FLOCK F ./probe
umask 0; $FLOCK F ./probe
umask 0777; $FLOCK F ./probe
umask 027; $FLOCK --fcntl F ./probe
umask 022; $FLOCK -s F ./probe; $FLOCK -s F ./probe
echo text >F; $FLOCK F ./probe
echo text >F; $FLOCK --fcntl F ./probe
chmod 0444 probe; $FLOCK probe true
chmod 0755 probe; $FLOCK probe ./probe
chmod 0755 probe; $FLOCK --fcntl probe ./probe
touch F; chmod 0 F; $FLOCK F ./probe
touch F; chmod 0444 F; $FLOCK F ./probe
touch F; chmod 0444 F; $FLOCK --fcntl F ./probe
touch F; chmod 0444 F; $FLOCK -s --fcntl F ./probe
touch F; chmod 0222 F; $FLOCK F ./probe
touch F; chmod 0222 F; $FLOCK --fcntl F ./probe
mkdir D; chmod 0555 D; $FLOCK D/F true; ls D; chmod 0755 D
mkdir D; chmod 0666 D; $FLOCK D/F true; chmod 0755 D
mkfifo P; (: >P) & $FLOCK P ./probe
mkfifo P; (: >P) & $FLOCK -o P ./probe
mkfifo P; (: <P) & $FLOCK --fcntl P ./probe
mkfifo P; timeout 0.5 $FLOCK -n P true
mkfifo P; timeout 0.5 $FLOCK P true
`

// commands are what can be run.
const commands = `
$FLOCK F true
$FLOCK F false
$FLOCK F sh -c 'exit 7'
$FLOCK F sh -c 'exit 255'
$FLOCK F sh -c 'kill -9 $$'
$FLOCK F sh -c 'kill -TERM $$'
$FLOCK F sh -c 'kill -HUP $$'
$FLOCK F sh -c 'kill -40 $$'
$FLOCK F sh -c 'ulimit -c 0; kill -SEGV $$'
$FLOCK -F F sh -c 'kill -9 $$'
$FLOCK -F F sh -c 'exit 7'
$FLOCK F nosuchcommand
$FLOCK F ./nosuchcommand
$FLOCK F /nonexistent/command
$FLOCK F ''
$FLOCK F .
$FLOCK F /etc
$FLOCK F /etc/passwd
$FLOCK F ./probe/x
$FLOCK -F F nosuchcommand
$FLOCK -F F /etc
$FLOCK -F F ''
$FLOCK -o F nosuchcommand
$FLOCK -E 5 F nosuchcommand
touch c; chmod 644 c; $FLOCK F ./c
touch c; chmod 755 c; $FLOCK F ./c
printf 'echo "script $0 $*"\nexit 3\n' >c; chmod 755 c; $FLOCK F ./c a 'b c'
printf 'echo "script $0 $*"\nexit 3\n' >c; chmod 755 c; $FLOCK -F F ./c a 'b c'
printf 'echo "script $0 $*"\nexit 3\n' >c; chmod 755 c; PATH=.:$PATH; $FLOCK F c a
printf '#!/nonexistent/interpreter\n' >c; chmod 755 c; $FLOCK F ./c
printf '#!\n' >c; chmod 755 c; $FLOCK F ./c
printf '\177ELFjunk' >c; chmod 755 c; $FLOCK F ./c
ln -s c c; $FLOCK F ./c
$FLOCK F sh -c 'echo "$0 $1"' a 'b c'
$FLOCK F echo a '' 'b  c'
$FLOCK F echo -n -- x
$FLOCK F -c 'exit 7'
$FLOCK F -c 'echo "$0 $# $SHELL"'
$FLOCK F -c ''
$FLOCK F -c 'kill -9 $$'
$FLOCK F -c true >&-
$FLOCK F -c ' echo  a   b '
$FLOCK F -c -x
$FLOCK F --command 'exit 3'
$FLOCK F --comm 'exit 3'
$FLOCK F --command=true
$FLOCK F -ctrue
$FLOCK -F F -c 'exit 4'
$FLOCK -o F -c ./probe
$FLOCK -n F -c ./probe
$FLOCK . -c 'exit 3'
SHELL=/bin/echo $FLOCK F -c 'a b'
SHELL= $FLOCK F -c 'echo $0'
unset SHELL; $FLOCK F -c 'echo $0'
SHELL=sh $FLOCK F -c 'echo $0'
SHELL=/nonexistent $FLOCK F -c true
SHELL=nosuchshell $FLOCK F -c true
PATH= $FLOCK F probe
PATH=.: ; $FLOCK F probe
PATH=/nonexistent:.; $FLOCK F probe
(unset PATH; $FLOCK F true)
(unset PATH; exec $FLOCK F nosuchcommand)
mkdir d; touch d/true; PATH=d:$PATH; $FLOCK F true
mkdir d; touch d/c; chmod 644 d/c; PATH=d:/nonexistent; $FLOCK F c
mkdir d; mkdir d/true; PATH=d:$PATH; $FLOCK F true
$FLOCK F sh -c "$FLOCK -n F true; echo \$?"
$FLOCK -s F sh -c "$FLOCK -s -n F true; echo \$?; $FLOCK -n F true; echo \$?"
$FLOCK F sh -c "$FLOCK -n --fcntl F true; echo \$?"
$FLOCK --fcntl F sh -c "$FLOCK -n --fcntl F true; echo \$?; $FLOCK -n F true; echo \$?"
$FLOCK --start 0 --length 5 F sh -c "$FLOCK -n --start 5 F true; echo \$?; $FLOCK -n --start 4 F true; echo \$?"
$FLOCK F sh -c 'sleep 60 & echo $!' >pid; $FLOCK -n F true; echo $?; kill $(cat pid); rm pid
$FLOCK -o F sh -c 'sleep 60 & echo $!' >pid; $FLOCK -n F true; echo $?; kill $(cat pid); rm pid
$FLOCK -F F sh -c 'sleep 60 & echo $!' >pid; $FLOCK -n F true; echo $?; kill $(cat pid); rm pid
$FLOCK F sh -c "sleep 60 & echo \$!; $FLOCK -u 3; echo \$? >&2" >pid; $FLOCK -n F true; echo $?; kill $(cat pid); rm pid
$FLOCK F sh -c 'rm F; echo $?'
$FLOCK F sh -c "rm F; $FLOCK -n F true; echo \$?"
$FLOCK F cat </etc/hostname >/dev/null
echo input | $FLOCK F cat
$FLOCK --verbose F true >/dev/null
$FLOCK --verbose F true >/dev/full
$FLOCK --verbose F nosuchcommand >/dev/null
$FLOCK --verbose -u F true >/dev/null
exec 9>F; $FLOCK --verbose -n 9 >/dev/null; exec 8>F; $FLOCK --verbose -n 8 >/dev/null 2>&1
echo input | $FLOCK -F F cat
`

// descriptors are those that were inherited, and closed ones.
const descriptors = `
exec 9>F; $FLOCK 9; echo $?; ./probe
exec 9>F; $FLOCK -s 9; echo $?; ./probe
exec 9>F; $FLOCK -n 9; echo $?; ./probe
exec 9>F; $FLOCK -o 9; echo $?; ./probe
exec 9>F; $FLOCK -F 9; echo $?; ./probe
exec 9>F; $FLOCK -w 1 9; echo $?; ./probe
exec 9>F; $FLOCK --fcntl 9; echo $?; ./probe
exec 9>F; $FLOCK --fcntl -s 9; echo $?
exec 9<>F; $FLOCK --fcntl -s 9; echo $?; ./probe
exec 9<>F; $FLOCK --start 3 --length 4 9; echo $?; ./probe
exec 9<>F; $FLOCK --start 3 --length 4 9; $FLOCK --start 4 --length 1 -u 9; echo $?; ./probe
exec 9<>F; $FLOCK --start 3 --length 4 9; $FLOCK --fcntl -u 9; echo $?; ./probe
exec 9<>F; $FLOCK --fcntl 9; $FLOCK -u 9; echo $?; ./probe
touch F; exec 9<F; $FLOCK 9; echo $?; ./probe
touch F; exec 9<F; $FLOCK --fcntl 9; echo $?
touch F; exec 9<F; $FLOCK --fcntl -s 9; echo $?; ./probe
exec 9>F; $FLOCK 9; $FLOCK -s 9; echo $?; ./probe
exec 9>F; $FLOCK -s 9; $FLOCK -x 9; echo $?; ./probe
exec 9>F; $FLOCK 9; $FLOCK -u 9; echo $?; ./probe
exec 9>F; $FLOCK -u 9; echo $?; ./probe
exec 9>F; $FLOCK -un 9; echo $?; ./probe
exec 9>F; $FLOCK 9; exec 8>F; $FLOCK -n 8; echo $?
exec 9>F; $FLOCK 9; exec 8>F; $FLOCK -E 42 -n 8; echo $?
exec 9>F; $FLOCK 9; exec 8>F; $FLOCK -E 42 -w 0.02 8; echo $?
exec 9>F; $FLOCK 9; exec 8>&9; $FLOCK -n 8; echo $?
exec 9>F; $FLOCK 9; (exec 8>&9; $FLOCK -n 8); echo $?; ./probe
exec 9>F; $FLOCK 9; $FLOCK -n F true; echo $?
exec 9>F; $FLOCK 9; $FLOCK -n F true 9>&-; echo $?
exec 9>F; $FLOCK -- 9; echo $?; ./probe
exec 9>F; $FLOCK ' 9'; echo $?; ./probe
exec 9>F; $FLOCK +9; echo $?; ./probe
exec 9>F; $FLOCK 09; echo $?; ./probe
exec 9<.; $FLOCK 9; echo $?
exec 9<.; $FLOCK --fcntl 9; echo $?
exec 9</dev/null; $FLOCK 9; echo $?
exec 9</dev/zero; $FLOCK --fcntl -s 9; echo $?
true | $FLOCK 0; echo $?
true | $FLOCK --fcntl -s 0; echo $?
$FLOCK 0 <F; echo $?
touch F; $FLOCK 0 <F; echo $?
$FLOCK 1 >F
$FLOCK 2 2>F
$FLOCK 0 <&-; echo $?
$FLOCK 1 >&-; echo $?
$FLOCK 2 2>&-; echo $?
$FLOCK -n 0 <&- >&- 2>&-; echo $?
$FLOCK -u 0 <&-; echo $?
$FLOCK F true <&-; echo $?
$FLOCK F true >&-; echo $?
$FLOCK F true 2>&-; echo $?
$FLOCK F true <&- >&- 2>&-; echo $?
$FLOCK -F F true <&- >&- 2>&-; echo $?
$FLOCK F nosuchcommand 2>&-; echo $?
$FLOCK F ./probe <&-
$FLOCK F ./probe 2>&-
$FLOCK --bogus 2>&-; echo $?
$FLOCK --bogus 2>/dev/full; echo $?
$FLOCK F ./probe 5>keep 7<keep
$FLOCK -o F ./probe 5>keep 7<keep
$FLOCK -F F ./probe 5>keep 7<keep
$FLOCK --fcntl F ./probe 3>keep
$FLOCK F ./probe 3>keep 4>keep 5>keep
$FLOCK -n --fcntl F ./probe
$FLOCK -w 1 F ./probe 3>keep
$FLOCK F sh -c "$FLOCK -u 3; echo \$?; ./probe"
$FLOCK -s F sh -c "$FLOCK -x 3; echo \$?; ./probe"
$FLOCK F sh -c 'exec 3>&-; ./probe'
( $FLOCK -n 9 || exit 1; ./probe ) 9>F
`

// surroundings are what a process inherits besides.
const surroundings = `
trap '' HUP; $FLOCK F ./probe
trap '' INT; $FLOCK F ./probe
trap '' TERM; $FLOCK F ./probe
trap '' PIPE; $FLOCK F ./probe
trap '' QUIT; $FLOCK F ./probe
trap '' USR1; $FLOCK F ./probe
trap '' CHLD; $FLOCK F ./probe
trap '' CHLD; $FLOCK F sh -c 'exit 7'
trap '' CHLD; $FLOCK -F F ./probe
trap '' CHLD HUP INT; $FLOCK -o F ./probe
trap '' ALRM; $FLOCK -w 1 F ./probe
trap '' TSTP TTIN TTOU CONT; $FLOCK F ./probe
trap '' HUP INT; $FLOCK -F F ./probe
ulimit -n 64; $FLOCK F ./probe
ulimit -S -n 40; $FLOCK F ./probe
ulimit -S -n 40; $FLOCK -F F ./probe
ulimit -f 0; $FLOCK F ./probe
ulimit -c 0; $FLOCK F ./probe
exec $FLOCK F ./probe
exec $FLOCK -F F ./probe
mkdir d; cd d; $FLOCK ../F sh -c 'pwd | sed "s,.*/,,"'
mkdir d; cd d; rmdir ../d; $FLOCK ../F true
mkdir d; cd d; rmdir ../d; $FLOCK F true
A=1 B=2 $FLOCK F sh -c 'echo $A $B'
env -i $FLOCK F /usr/bin/env
env -i A=b= C= $FLOCK -F F /usr/bin/env
env -i 'odd name=x' $FLOCK F /usr/bin/env
POSIXLY_CORRECT=1 $FLOCK F ./probe -n
GODEBUG=inittrace=0 GOMAXPROCS=3 $FLOCK F sh -c 'echo $GODEBUG $GOMAXPROCS'
`

// options are combined with one another, and with scenes.
var options = []string{
	"-s", "-x", "-e", "-u", "-n", "-o", "-F", "-w 0.03", "-w 0", "-E 42", "-E 0", "--fcntl",
	"--start 10", "--length 5", "--start 12 --length 1", "--shared", "--unlock", "--close", "--nb", "--timeout=0.03",
}

// combined are all pairs of options, on a free lock; and each of them where others
// hold it, with something that ends the wait.
func combined() []testCase {
	var list []testCase
	for i, a := range options {
		list = append(list, testCase{script: "$FLOCK " + a + " F ./probe", scenes: []scene{free, there}})
		for _, b := range options[i+1:] {
			list = append(list, testCase{script: "$FLOCK " + a + " " + b + " F ./probe", scenes: alone})
		}
	}
	held := []scene{heldEx, heldSh, heldOFD, sharOFD, partOFD}
	for _, end := range []string{"-n", "-w 0.02", "-E 7 -w 0"} {
		list = append(list, testCase{script: "$FLOCK " + end + " F ./probe", scenes: held})
		for _, a := range options {
			list = append(list, testCase{script: "$FLOCK " + end + " " + a + " F ./probe", scenes: held})
		}
	}
	for _, a := range options {
		list = append(list, testCase{script: "exec 9<>F; $FLOCK -n " + a + " 9; echo $?; ./probe", scenes: append(held, there)})
	}
	return list
}

// allCases are all of them.
func allCases() []testCase {
	var list []testCase
	for _, text := range []string{usage, numbers, words, files, commands, descriptors, surroundings} {
		list = append(list, lines(alone, text)...)
	}
	return append(list, combined()...)
}
