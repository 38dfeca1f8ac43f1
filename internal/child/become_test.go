package child

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/testenv"
)

// execCommand is the program under test with these arguments.
func execCommand(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", args...)
	cmd.Args[0] = "exec"
	return cmd
}

// run runs cmd and returns its exit status with what it printed.
func run(t *testing.T, cmd *exec.Cmd) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
	return statusOf(ws), out.String(), errs.String()
}

// modes are the two ways to run a command.
var modes = map[string][]string{"become": nil, "init": {"-init"}}

func TestStatus(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil { // the umask
			t.Fatal(err)
		}
		return path
	}
	loader := []byte("\x7fELF\x02\x01\x01")
	if text, err := os.ReadFile("/bin/true"); err != nil || !bytes.Contains(text, []byte("/lib64/ld-linux-x86-64.so.2\x00")) && runtime.GOARCH == "amd64" {
		t.Fatalf("/bin/true is no dynamic program: %v", err)
	} else if runtime.GOARCH == "amd64" {
		loader = bytes.Replace(text, []byte("/lib64/ld-linux-x86-64.so.2\x00"), []byte("/lib64/ld-gone-x86-64.so.99\x00"), 1)
	}
	other := make([]byte, 64)
	copy(other, "\x7fELF\x02\x01\x01")
	other[16], other[18] = 2, 243 // ET_EXEC, riscv64
	for _, c := range []struct {
		name, arg string
		env       []string
		status    int
		want      string // in what is said
		shell     bool   // ENOEXEC
	}{
		{name: "ends", arg: "false", status: 1},
		{name: "absent", arg: "no-such-command", status: 127, want: "not found in PATH="},
		{name: "absent path", arg: dir + "/absent", status: 127, want: "no such file"},
		{name: "empty", arg: "", status: 127, want: `cannot execute "": no such file`},
		{name: "not a directory", arg: "/etc/passwd/x", status: 126, want: "not a directory"},
		{name: "directory", arg: dir, status: 126, want: "it is a directory"},
		{name: "no x", arg: file("plain", "#!/bin/sh\n", 0o644), status: 126, want: "chmod +x"},
		{name: "text", arg: file("text", "echo hello\n", 0o755), status: 126, want: "without a first line such as #!/bin/sh", shell: true},
		{name: "empty file", arg: file("empty", "", 0o755), status: 126, want: "the file is empty", shell: true},
		{name: "bom", arg: file("bom", "\xef\xbb\xbf#!/bin/sh\n", 0o755), status: 126, want: "byte order mark", shell: true},
		{name: "interpreter", arg: file("script", "#! /opt/none/python3 -u\n", 0o755), status: 127, want: "its interpreter /opt/none/python3 is not"},
		{name: "carriage return", arg: file("dos", "#!/bin/sh\r\necho\r\n", 0o755), status: 127, want: `"/bin/sh\r": store the script with Unix line ends`},
		{name: "loader", arg: file("dynamic", string(loader), 0o755), status: 127, want: "/lib64/ld-gone-x86-64.so.99 is not"},
		{name: "other machine", arg: file("riscv", string(other), 0o755), status: 126, want: "program for riscv64", shell: true},
		{name: "EACCES beats ENOENT", arg: "plain", env: []string{"PATH=/nonexistent:" + dir + ":/bin"}, status: 126, want: dir + "/plain"},
		{name: "behind what is denied", arg: "false", env: []string{"PATH=" + filepath.Dir(file("d/false", "x", 0o644)) + ":/bin:/usr/bin"}, status: 1},
		{name: "no PATH", arg: "false", env: []string{}, status: 1},
		{name: "working directory", arg: "text", env: []string{"PATH=/nonexistent:"}, status: 126, want: "text", shell: true},
		{name: "too long", arg: strings.Repeat("x", 300), status: 126, want: "file name too long"},
	} {
		for mode, flags := range modes {
			t.Run(c.name+"/"+mode, func(t *testing.T) {
				if c.name == "loader" && runtime.GOARCH != "amd64" {
					t.Skip("the loader's name is that of amd64")
				}
				env := c.env
				if env == nil {
					env = []string{"PATH=/usr/bin:/bin"}
				}
				cmd := execCommand(t, append(flags, "--", c.arg)...)
				cmd.Env, cmd.Dir = env, dir
				status, _, stderr := run(t, cmd)
				if status != c.status || !strings.Contains(stderr, c.want) {
					t.Errorf("status %d, %q; want %d with %q", status, stderr, c.status, c.want)
				}
				if c.shell {
					return // where execvp(3) runs a shell
				}
				peer := exec.CommandContext(t.Context(), "/usr/bin/env", c.arg)
				peer.Env, peer.Dir = env, dir
				if got, _, _ := run(t, peer); got != c.status {
					t.Errorf("env(1) says %d", got)
				}
			})
		}
	}
}

// inherited are the lines of /proc/self/status that a program has from whoever
// started it.
var inherited = []string{"Umask", "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"}

func statusFields(text string, names ...string) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(text) {
		k, v, _ := strings.Cut(line, ":")
		for _, n := range names {
			if n == k {
				m[k] = strings.TrimSpace(v)
			}
		}
	}
	return m
}

// probe prints all that a command is given.
const probe = `cat /proc/self/status; cat /proc/self/limits; pwd; ls -l /proc/self/fd/ | sed 's/.* \([0-9]* -> \)/fd \1/' | grep '^fd' | grep -v /proc/; echo "ppid $PPID"`

// The command finds what it would find under env(1).
func TestInherited(t *testing.T) {
	for name, c := range map[string]struct {
		before string // shell, in front of the command
		mask   linux.Sigset
	}{
		"plain":      {},
		"nohup":      {before: "trap '' HUP INT;"},
		"job":        {before: "trap '' TSTP CONT TTIN TTOU;"},
		"limits":     {before: "ulimit -Sn 77; ulimit -c 0; umask 0137; cd /usr;"},
		"files":      {before: "exec 7</etc/passwd 9>/dev/null;"},
		"masked":     {mask: linux.Sigset(0).With(syscall.SIGUSR1, syscall.SIGPIPE, 40)},
		"all masked": {mask: ^linux.Sigset(0).With(32, 33)},
	} {
		for mode, flags := range modes {
			t.Run(name+"/"+mode, func(t *testing.T) {
				report := func(argv ...string) string {
					if c.before != "" { // a shell unblocks everything
						argv = append([]string{"/bin/sh", "-c", c.before + ` exec "$@"`, "sh"}, argv...)
					}
					cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
					var out, errs bytes.Buffer
					cmd.Stdout, cmd.Stderr = &out, &errs
					started := make(chan error)
					go func() {
						runtime.LockOSThread() // never unlocked, because of the mask
						if c.mask != 0 {
							if _, err := linux.SetThreadMask(&c.mask); err != nil {
								started <- err
								return
							}
						}
						started <- cmd.Start()
					}()
					if err := <-started; err != nil {
						t.Fatal(err)
					}
					if err := cmd.Wait(); err != nil {
						t.Fatalf("%v\n%s", err, errs.String())
					}
					return out.String()
				}
				what := []string{"/bin/sh", "-c", probe}
				if c.mask != 0 {
					what = []string{"/bin/cat", "/proc/self/status"}
				}
				ours := report(append(append([]string{program(t, "exec")}, flags...), append([]string{"--"}, what...)...)...)
				peer := report(append([]string{"/usr/bin/env"}, what...)...)
				if diff := cmp.Diff(comparable(peer), comparable(ours)); diff != "" {
					t.Errorf("(-env +ours)\n%s", diff)
				}
			})
		}
	}
}

// comparable leaves out what differs by chance.
func comparable(out string) string {
	var b strings.Builder
	fields := statusFields(out, inherited...)
	for _, k := range inherited {
		fmt.Fprintf(&b, "%s: %s\n", k, fields[k])
	}
	_, rest, _ := strings.Cut(out, "Limit ")
	for line := range strings.Lines(rest) {
		if strings.HasPrefix(line, "ppid") || strings.Contains(line, "pipe:[") {
			continue
		}
		b.WriteString(line)
	}
	return b.String()
}

// Become keeps the process, and the process its parent-death signal.
func TestBecomeKeepsTheProcess(t *testing.T) {
	cmd := execCommand(t, "--", "/bin/sh", "-c", "echo $$")
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(out.String()); got != fmt.Sprint(cmd.Process.Pid) {
		t.Errorf("the command is process %s, and was started as %d", got, cmd.Process.Pid)
	}
}

func TestDeathSignalIsKept(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Tool("setpriv"))
	for name, args := range map[string][]string{"as found": nil, "with another user": {"-user", "65534:65534"}} {
		t.Run(name, func(t *testing.T) {
			argv := append([]string{"--pdeathsig", "TERM", program(t, "exec")}, args...)
			cmd := exec.CommandContext(t.Context(), "setpriv", append(argv, "--", "setpriv", "--dump")...)
			_, out, errs := run(t, cmd)
			if !strings.Contains(out, "Parent death signal: TERM") {
				t.Errorf("the command's death signal is not TERM:\n%s%s", out, errs)
			}
		})
	}
}
