package cli

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/testenv"
)

// why opens nothing that could block, wake somebody or leave a trace, neither alone nor
// in a tree.
func TestWhyTouchesNothing(t *testing.T) {
	testenv.Need(t, testenv.Tool("strace"))
	strace, err := testenv.LookTool("strace")
	mustDo(t, err)
	self, err := os.Executable()
	mustDo(t, err)
	bin, dir := t.TempDir(), t.TempDir()
	mustDo(t, os.Symlink(self, filepath.Join(bin, "slashrun")))
	mustDo(t, syscall.Mkfifo(filepath.Join(dir, "a-fifo"), 0o666))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "a-stream"), Net: "unix"})
	mustDo(t, err)
	defer l.Close()
	g, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "a-dgram"), Net: "unixgram"})
	mustDo(t, err)
	defer g.Close()
	mustDo(t, os.WriteFile(filepath.Join(dir, "a-file.pid"), []byte("1\n"), 0o666))
	mustDo(t, os.WriteFile(filepath.Join(dir, "a-lock.lock"), nil, 0o666))
	mustDo(t, os.Symlink("a-fifo", filepath.Join(dir, "a-link")))
	before := times(t, dir)

	log := filepath.Join(bin, "log")
	args := []string{"-f", "--seccomp-bpf", "-qq", "-y", "-o", log, "-e", "trace=/^(open|openat|openat2|creat|connect|sendto|sendmsg|write|unlink|unlinkat|rename|renameat|renameat2|mkdir|mkdirat|mknodat|symlinkat|linkat|fchmodat|fchmodat2|fchownat|utimensat|flock|fcntl|setns|execve)$",
		filepath.Join(bin, "slashrun"), "why", "--json", dir, "/dev/null"}
	for _, name := range []string{"a-fifo", "a-stream", "a-dgram", "a-file.pid", "a-lock.lock", "a-link"} {
		args = append(args, filepath.Join(dir, name))
	}
	var stderr bytes.Buffer
	cmd := exec.Command(strace, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, stderr.String())
	}
	if n := bytes.Count(out, []byte("\n")); n != 6+1+7 {
		t.Errorf("%d lines:\n%s", n, out)
	}
	text, err := os.ReadFile(log)
	mustDo(t, err)
	probes, opened := 0, 0
	for line := range strings.Lines(string(text)) {
		_, call, _ := strings.Cut(strings.TrimSpace(line), " ")
		call = strings.TrimSpace(call)
		name, _, _ := strings.Cut(call, "(")
		switch name {
		case "open", "openat", "openat2":
			opened++
			special := strings.Contains(call, "a-fifo") || strings.Contains(call, "a-stream") || strings.Contains(call, "a-dgram") || strings.Contains(call, "/dev/null")
			if special && !strings.Contains(call, "O_PATH") && !strings.Contains(call, "ENOENT") && !strings.Contains(call, "O_DIRECTORY") {
				t.Errorf("opened: %s", call)
			}
			if strings.Contains(call, "O_WRONLY") || strings.Contains(call, "O_RDWR") || strings.Contains(call, "O_CREAT") {
				t.Errorf("opened for writing: %s", call)
			}
		case "connect":
			// The probe of package sockdiag: a datagram socket, which no listener notices.
			if strings.Contains(call, "UNIX-STREAM") || strings.Contains(call, "UNIX-SEQPACKET") {
				t.Errorf("connected: %s", call)
			}
			probes++
		case "write": // the output, and the runtime's own eventfd
			if !strings.Contains(call, "write(1") && !strings.Contains(call, "write(2") && !strings.Contains(call, "eventfd") && !strings.Contains(call, "pipe:") {
				t.Errorf("wrote: %s", call)
			}
		case "sendto", "sendmsg":
			if !strings.Contains(call, "NETLINK") {
				t.Errorf("sent: %s", call)
			}
		case "fcntl":
			if strings.Contains(call, "F_SETLK") || strings.Contains(call, "F_OFD_SETLK") {
				t.Errorf("locked: %s", call)
			}
		case "execve":
			if !strings.Contains(call, `slashrun"`) {
				t.Errorf("started: %s", call)
			}
		case "setns", "flock", "unlink", "unlinkat", "creat", "rename", "renameat", "renameat2", "mkdir", "mkdirat", "mknodat", "symlinkat", "linkat", "fchmodat", "fchmodat2", "fchownat", "utimensat":
			if name != "setns" {
				t.Errorf("changed something: %s", call)
			}
		}
	}
	if probes == 0 || opened < 20 {
		t.Errorf("%d probes, %d files opened: the trace holds nothing", probes, opened)
	}
	// Nobody was woken: the queues are empty.
	l.SetDeadline(time.Now())
	if c, err := l.Accept(); err == nil {
		c.Close()
		t.Error("somebody connected to the stream socket")
	}
	g.SetDeadline(time.Now())
	if _, _, err := g.ReadFrom(make([]byte, 1)); err == nil {
		t.Error("somebody sent to the datagram socket")
	}
	if after := times(t, dir); after != before {
		t.Errorf("times changed:\n%s\n%s", before, after)
	}
}

// times are the times of a directory's entries: of access only where the kernel lets
// the owner leave them alone.
func times(t *testing.T, dir string) string {
	var b strings.Builder
	entries, err := os.ReadDir(dir)
	mustDo(t, err)
	for _, e := range entries {
		var st syscall.Stat_t
		mustDo(t, syscall.Lstat(filepath.Join(dir, e.Name()), &st))
		b.WriteString(e.Name() + " " + time.Unix(st.Mtim.Unix()).String() + " " + time.Unix(st.Ctim.Unix()).String())
		if st.Mode&syscall.S_IFMT == syscall.S_IFREG {
			b.WriteString(" " + time.Unix(st.Atim.Unix()).String())
		}
		b.WriteString("\n")
	}
	return b.String()
}

// Many paths need no more descriptors than the usual limit of 1024.
func TestWhyManyPaths(t *testing.T) {
	self, err := os.Executable()
	mustDo(t, err)
	bin, dir := t.TempDir(), t.TempDir()
	mustDo(t, os.Symlink(self, filepath.Join(bin, "slashrun")))
	args := []string{"-c", `ulimit -n 256; exec "$@"`, "sh", filepath.Join(bin, "slashrun"), "why", "--json"}
	const many = 450
	for n := range many {
		args = append(args, filepath.Join(dir, strconv.Itoa(n)))
		mustDo(t, os.WriteFile(args[len(args)-1], nil, 0o666))
	}
	var stderr bytes.Buffer
	cmd := exec.Command("sh", args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || bytes.Count(out, []byte("\n")) != many || bytes.Contains(out, []byte("too many")) || strings.Contains(stderr.String(), "too many") {
		t.Errorf("%v, %d lines: %.500s", err, bytes.Count(out, []byte("\n")), stderr.String())
	}
}
