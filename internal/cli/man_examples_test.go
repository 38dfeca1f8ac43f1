package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/testenv"
)

// A manExample says how an example of a man page is run, in namespaces of its own
// where /run is an empty tmpfs, and what must come of it.
type manExample struct {
	shell  string // sh if empty
	setup  string // shell commands that come first
	listen string // a unix socket that somebody listens on
	status int
	stdout string // regular expression
	check  string // shell commands that must succeed behind it
	need   []testenv.Requirement
	pidfd  bool   // without pidfds it refuses, with status 6
	notRun string // why it is not run
}

// nginxRuns has a process whose PID is in nginx's file. It ends by SIGHUP, too.
const nginxRuns = "sleep 1000 >/dev/null 2>&1 & p=$!; trap 'kill $p 2>/dev/null' EXIT; slashrun pidfile write --pid=$p /run/nginx.pid; "

// lockHeld has the shell hold a lock.
const lockHeld = "exec 9>/run/backup.lock; slashrun lock 9; "

const containerfile = "a part of a Containerfile: test/exectest builds such images"

var manExamples = map[string]map[string]manExample{
	"slashrun.1": {
		"slashrun try -- ls -l /run": {stdout: `(?m) slashrun$`},
		"slashrun help exec":         {stdout: `--dry-run`},
		"ENTRYPOINT":                 {notRun: containerfile},
	},
	"slashrun-tmpfiles.8": {
		"slashrun tmpfiles --create --remove --boot":                       {check: "test $(stat -c %a /run/food) = 750"},
		"slashrun tmpfiles --create food.conf":                             {check: "test $(stat -c %a /run/food) = 750"},
		"echo 'd /run/food 0750 root root' | slashrun tmpfiles --create -": {check: "test $(stat -c %a /run/food) = 750"},
		"slashrun tmpfiles --create --inline 'd /run/food 0750 root root'": {check: "test $(stat -c %a /run/food) = 750"},
		"slashrun tmpfiles --create --check --prefix=/run/food food.conf":  {status: 2, check: "! test -e /run/food"},
		"slashrun tmpfiles --explain=/run/food":                            {stdout: `/run/tmpfiles.d/food.conf:1`},
		"slashrun tmpfiles --create --root=./tree -E --dry-run":            {setup: "mkdir -p tree/etc/tmpfiles.d; echo 'd /food' >tree/etc/tmpfiles.d/a.conf", stdout: `^would .*/food`, check: "! test -e tree/food"},
		"slashrun tmpfiles --clean --dry-run --json":                       {setup: "mkdir /run/food; touch -d 2001-01-01 /run/food/old; echo 'd /run/food - - - m:1d' >/run/tmpfiles.d/food.conf", stdout: `"/run/food/old"`, check: "test -e /run/food/old"},
	},
	"slashrun-boot.8": {
		"slashrun boot --early":                             {check: "test -s /run/slashrun/boot"},
		"slashrun boot --late":                              {check: "test -L /var/run && test -d /run/food"},
		"slashrun boot --dry-run":                           {stdout: `(?m)^would `, check: "! test -e /run/slashrun"},
		"slashrun boot --in-place":                          {check: "test -s /run/slashrun/boot"},
		"slashrun boot --initramfs --newroot=/mnt":          {setup: "mkdir -p /mnt/run", check: "test -s /mnt/run/slashrun/boot"},
		"slashrun boot --size=16m --nr-inodes=16k --noexec": {check: "test $(stat -f -c %c /run) = 16384"},
	},
	"slashrun-exec.1": {
		"ENTRYPOINT":                                             {notRun: containerfile},
		"slashrun exec --dry-run -- true":                        {stdout: `(?m)^would become true$`},
		"slashrun exec --dry-run --json -- true":                 {stdout: `"command": \[`},
		"podman run --rm -e SLASHRUN_EXEC_DRY_RUN=yes IMAGE":     {notRun: "IMAGE stands for one: test/exectest does this"},
		"slashrun exec --init --tmpfiles=none -- sh -c 'exit 7'": {status: 7},
	},
	"slashrun-try.1": {
		"slashrun try":                    {stdout: `^A /run of its own`},
		"slashrun try -- ls -l /run":      {stdout: `(?m) slashrun$`},
		"slashrun try --no-tour nginx -t": {stdout: `^nginx -t\n`},
		"slashrun try --no-tour --profile=debian -- touch /run/lock/food": {},
	},
	"slashrun-pidfile.1": {
		"slashrun pidfile check /run/nginx.pid":                     {setup: nginxRuns, stdout: "^/run/nginx.pid: runs: "},
		"slashrun pidfile check --json /run/nginx.pid":              {setup: nginxRuns, stdout: `"verdict": "live"`},
		"slashrun pidfile signal -s HUP /run/nginx.pid":             {pidfd: true, setup: nginxRuns, check: "wait $p; test $? = 129"},
		"slashrun pidfile write /run/food.pid -- food --foreground": {stdout: "^food --foreground\n", check: "! slashrun pidfile check /run/food.pid"},
		"setpriv --reuid=food --regid=food --init-groups \\\n    slashrun pidfile signal -s HUP /run/food/food.pid": {
			pidfd: true,
			need:  []testenv.Requirement{testenv.Root, testenv.Tool("setpriv")},
			setup: "mkdir /run/food; chown food:food /run/food; d=$(dirname $(command -v slashrun)); chmod 755 $d $d/..; mkfifo -m 666 ready\n" +
				"setpriv --reuid=food --regid=food --init-groups sh -c 'slashrun pidfile write /run/food/food.pid; echo >ready; exec sleep 1000 >/dev/null 2>&1' & p=$!\n" +
				"read x <ready",
			check: "wait $p; test $? = 129",
		},
		"slashrun pidfile check /run/food.pid\ncase $? in\n0) echo ok ;;\n3|5) echo dead; exit 1 ;;\n*) echo unknown; exit 0 ;;\nesac": {
			status: 1, setup: "sh -c 'slashrun pidfile write /run/food.pid'", stdout: "(?m)^dead$",
		},
	},
	"slashrun-lock.1": {
		"slashrun lock /run/backup.lock backup --all":                                 {stdout: "^backup --all\n", check: "test -e /run/backup.lock"},
		"slashrun lock -n -E 75 /run/backup.lock backup --all":                        {setup: "exec 9>/run/backup.lock; slashrun lock 9", status: 75},
		"slashrun lock /run/backup.lock -c 'backup --all >/run/backup.log'":           {check: "grep -q all /run/backup.log"},
		"slashrun lock --name=backup --report=60 backup --all":                        {setup: "mkdir /run/lock", stdout: "^backup --all\n", check: "test -e /run/lock/backup"},
		"slashrun lock --verbose -w 10 -E 75 ./backup.lock backup --all":              {stdout: "(?m)^slashrun: locked ./backup.lock after .*\n(.*\n)*backup --all$"},
		"(\n    slashrun lock -n 9 || exit 1\n    backup --all\n) 9>/run/backup.lock": {stdout: "^backup --all\n"},
		"slashrun lock list":                                              {setup: lockHeld, stdout: `(?m)^sh +\d+ FLOCK +WRITE +0 +EOF .* /run/backup.lock$`},
		"slashrun lock list /run/lock /var/lib":                           {setup: "mkdir /run/lock /var/lib; exec 9>/run/lock/a; slashrun lock 9", stdout: `(?m)/run/lock/a$`},
		`slashrun lock list --deadlocks; [ $? -ne 3 ] || echo "for ever"`: {setup: lockHeld, stdout: "^$"},
		"slashrun lock list --json | jq -r '.locks[] | select(.waiters and .path).path'": {
			setup: lockHeld + "slashrun lock /run/backup.lock true 9>&- & until slashrun lock list --json 2>/dev/null | grep -q waiters; do :; done", stdout: "(?m)^/run/backup.lock$", check: "exec 9>&-; wait",
			need: []testenv.Requirement{testenv.Tool("jq")},
		},
		`ln -s "$(command -v slashrun)" /usr/local/bin/flock`: {setup: "mount -t tmpfs tmpfs /usr/local/bin", check: `test "$(readlink /usr/local/bin/flock)" = "$(command -v slashrun)"`},
	},
	"slashrun-why.1": {
		"slashrun why /run/nginx.pid":        {setup: nginxRuns, stdout: "^/run/nginx.pid: PID file, live\n"},
		"slashrun why /run":                  {setup: nginxRuns, stdout: "(?m)^live +pidfile +/run/nginx.pid "},
		"slashrun why --directory /run/lock": {setup: "mkdir /run/lock", stdout: "^/run/lock: directory, "},
		`slashrun why --json /run | jq -r 'select(.verdict == "stale").path'`: {
			setup: "sh -c 'slashrun pidfile write /run/old.pid'", stdout: "^/run/old.pid\n$", need: []testenv.Requirement{testenv.Tool("jq")},
		},
	},
	"slashrun-wait.1": {
		"ENTRYPOINT": {notRun: "no name server is asked here; the test of the examples for shells waits for a port"},
		"slashrun wait listen:/run/dbus/system_bus_socket path:/dev/null": {listen: "/run/dbus/system_bus_socket"},
		"slashrun wait --any gone:/run/maintenance path:/run/override":    {setup: "touch /run/maintenance; (exec touch /run/override) &"},
		"slashrun wait --quiet --timeout=0 listen:/run/app.sock":          {status: 124},
		"slashrun wait -t 30 lock:/run/backup.lock -- food --foreground":  {stdout: "^food --foreground\n"},
	},
	"slashrun-completion.1": {
		"slashrun completion bash >/etc/bash_completion.d/slashrun":          {setup: "mkdir /etc/bash_completion.d", check: "test -s /etc/bash_completion.d/slashrun"},
		`slashrun completion zsh >"${fpath[1]}/_slashrun"`:                   {shell: "zsh", setup: "fpath=($PWD $fpath)", check: "test -s _slashrun", need: []testenv.Requirement{testenv.Tool("zsh")}},
		"slashrun completion fish >~/.config/fish/completions/slashrun.fish": {setup: "mkdir -p ~/.config/fish/completions", check: "test -s ~/.config/fish/completions/slashrun.fish"},
		". <(slashrun completion bash)":                                      {shell: "bash", check: "complete -p slashrun >/dev/null"},
	},
}

// manWorld is what the examples find: food, a service, and programs that stand for
// daemons.
func manWorld(t *testing.T) {
	t.Helper()
	// The machine's own declarations are not what is tested.
	for _, dir := range []string{"/usr/lib/tmpfiles.d", "/usr/local/lib/tmpfiles.d"} {
		if err := linux.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	populate(t, map[string]string{
		"/etc/passwd":               "root:x:0:0::/root:/bin/sh\nfood:x:1000:1000::/:/bin/false\n",
		"/etc/group":                "root:x:0:\nfood:x:1000:\n",
		"/run/tmpfiles.d/food.conf": "d /run/food 0750 root root\n",
		"/tmp/work/empty":           "",
		"/var/empty":                "",
		"/root/empty":               "",
	})
	for _, name := range []string{"backup", "food", "nginx"} {
		path := "/tmp/bin/" + name
		populate(t, map[string]string{path: "#!/bin/sh\necho " + name + " \"$@\"\n"})
		mustDo(t, os.Chmod(path, 0o755))
	}
}

func TestManExamples(t *testing.T) {
	for _, p := range manPages(t) {
		used := map[string]bool{}
		for i, example := range p.examples() {
			key := example
			if first, _, _ := strings.Cut(example, " "); first == "ENTRYPOINT" {
				key = first
				checkEntrypoints(t, p, example)
			}
			x, ok := manExamples[p.file][key]
			used[key] = true
			switch {
			case !ok:
				t.Errorf("man/%s: this example is not tested:\n%s", p.file, example)
			case x.notRun == "":
				t.Run(fmt.Sprintf("%s/%d", p.name, i), func(t *testing.T) {
					testenv.Need(t, x.need...)
					nstest.Run(t, tryWorld, func(t *testing.T) { x.run(t, example) })
				})
			}
		}
		for key := range manExamples[p.file] {
			if !used[key] {
				t.Errorf("man/%s no longer has the example %q", p.file, key)
			}
		}
	}
}

func (x manExample) run(t *testing.T, example string) {
	manWorld(t)
	if fd, err := linux.PidfdOpen(os.Getpid()); err == nil {
		linux.Close(fd)
	} else if x.pidfd {
		x.status, x.check = exitPIDRefused, ""
	}
	if x.listen != "" {
		mustDo(t, os.MkdirAll(filepath.Dir(x.listen), 0o755))
		l, err := net.Listen("unix", x.listen)
		mustDo(t, err)
		defer l.Close()
	}
	shell := x.shell
	if shell == "" {
		shell = "sh"
	}
	script := x.setup + "\n" + example + "\n"
	if x.check != "" {
		script += fmt.Sprintf("s=$?\ntest $s = %d || exit $s\n{ %s\n} || { echo >&2 'the check behind it fails'; exit 99; }\nexit $s\n", x.status, x.check)
	}
	// A signal that whoever runs the tests ignores is ignored in all of them, unless
	// it is caught here.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGHUP)
	defer signal.Stop(caught)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, shell, "-c", script)
	cmd.Dir = "/tmp/work"
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return name == "PATH" || name == "HOME" || name == "XDG_RUNTIME_DIR"
	}), "HOME=/root", "PATH="+os.Getenv("PATH")+":/tmp/bin")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second // what it left in the background may hold the output
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != x.status {
		t.Errorf("status %d, want %d", got, x.status)
	}
	if !regexp.MustCompile(x.stdout).Match(stdout.Bytes()) {
		t.Errorf("standard output does not match %q", x.stdout)
	}
	if t.Failed() {
		t.Logf("%s\nstandard output:\n%s\nstandard error:\n%s", example, &stdout, &stderr)
	}
}

// checkEntrypoints holds the options in lines of a Containerfile.
func checkEntrypoints(t *testing.T, p *manPage, text string) {
	for line := range strings.Lines(text) {
		list, ok := strings.CutPrefix(line, "ENTRYPOINT ")
		if !ok {
			continue
		}
		var words []string
		if err := json.Unmarshal([]byte(list), &words); err != nil || len(words) < 2 {
			t.Errorf("man/%s: %s: %v", p.file, line, err)
			continue
		}
		words[0] = filepath.Base(words[0])
		checkCommandLine(t, "man/"+p.file, strings.Join(words, " "))
	}
}
