package locktest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/testenv"
)

// fuse is a file server with one file, x, that answers everything but that the file
// is closed: fuse(4), linux/fuse.h. It returns a channel that is closed when that has
// been asked, and what ends it: then the kernel answers for it.
func fuse(t *testing.T, dir string) (asked <-chan struct{}, end func()) {
	t.Helper()
	if err := syscall.Mknod("/dev/fuse", syscall.S_IFCHR|0o600, int(linux.Makedev(10, 229))); !errors.Is(err, os.ErrExist) {
		must(t, err)
	}
	fd, err := linux.Openat(linux.AT_FDCWD, "/dev/fuse", linux.O_RDWR, 0)
	must(t, err)
	must(t, os.Mkdir(dir, 0o755))
	must(t, syscall.Mount("hung", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd)))
	closing := make(chan struct{})
	end = sync.OnceFunc(func() {
		_ = syscall.Unmount(dir, syscall.MNT_FORCE|syscall.MNT_DETACH) // aborts the connection
	})
	t.Cleanup(end)
	go func() {
		defer linux.Close(fd)
		le := binary.LittleEndian
		buf := make([]byte, 1<<17)
		attr := func(b []byte, node uint64) { // struct fuse_attr
			le.PutUint64(b, node)
			mode := uint32(syscall.S_IFREG | 0o666)
			if node == 1 {
				mode = syscall.S_IFDIR | 0o755
			}
			le.PutUint32(b[60:], mode)
			le.PutUint32(b[64:], 1) // nlink
		}
		var once sync.Once
		for {
			n, err := syscall.Read(fd, buf)
			if errors.Is(err, syscall.EINTR) || errors.Is(err, syscall.ENOENT) {
				continue
			}
			if err != nil || n < 40 {
				return
			}
			op, unique, node := le.Uint32(buf[4:]), le.Uint64(buf[8:]), le.Uint64(buf[16:])
			var body []byte
			var errno syscall.Errno
			switch op {
			case 26: // FUSE_INIT
				body = make([]byte, 64)
				le.PutUint32(body, 7)
				le.PutUint32(body[4:], 31)
				le.PutUint32(body[20:], 4096)
			case 1: // FUSE_LOOKUP
				if string(buf[40:n]) == "x\x00" {
					body = make([]byte, 40+88)
					le.PutUint64(body, 2)
					attr(body[40:], 2)
				} else {
					errno = syscall.ENOENT
				}
			case 3: // FUSE_GETATTR
				body = make([]byte, 16+88)
				attr(body[16:], node)
			case 14: // FUSE_OPEN
				body = make([]byte, 16)
			case 25: // FUSE_FLUSH: never answered
				once.Do(func() { close(closing) })
				continue
			case 18: // FUSE_RELEASE
			case 2, 36, 42: // FUSE_FORGET, FUSE_INTERRUPT, FUSE_BATCH_FORGET have no answer
				continue
			default:
				errno = syscall.ENOSYS
			}
			if errno != 0 {
				body = nil
			}
			out := make([]byte, 16, 16+len(body))
			le.PutUint32(out, uint32(16+len(body)))
			le.PutUint32(out[4:], uint32(-int32(errno)))
			le.PutUint64(out[8:], unique)
			_, _ = syscall.Write(fd, append(out, body...))
		}
	}()
	return closing, end
}

// A process that hangs in execve(2), because a file that it closes does not answer,
// holds up whoever follows its links in /proc. It holds up neither the end of a time
// limit nor that of the program nor the command, and nothing that was inherited stays
// open for its sake.
func TestHolderIsNotToBeFoundOut(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Tool("perl"), testenv.Requirement{What: "FUSE", Check: func() error {
		text, err := os.ReadFile("/proc/filesystems")
		if err == nil && !strings.Contains(string(text), "\tfuse\n") {
			err = errors.New("/proc/filesystems does not list it")
		}
		return err
	}})
	flock := ours(t)[0]
	nstest.Run(t, nstest.Options{Real: true, Keep: []string{"/usr", flock[:strings.LastIndexByte(flock, '/')]}, Env: []string{"SLASHRUN_LOCKTEST_OURS=" + flock}}, func(t *testing.T) {
		flock := os.Getenv("SLASHRUN_LOCKTEST_OURS")
		asked, answer := fuse(t, "/run/fuse")
		release := hold(t, "/run/F", linux.LOCK_EX)
		hung := exec.Command("perl", "-e", `open(F, "<", "/run/fuse/x") or die "$!"; exec "sleep", "1000"`)
		hung.Stderr = os.Stderr
		must(t, hung.Start())
		defer func() { answer(); _ = hung.Process.Kill(); _ = hung.Wait() }()
		<-asked

		shells := opened(t, "/run/F")
		for _, args := range [][]string{{"-n"}, {"-w", "0.01"}, {"-w", "0.01", "--fair"}, {"-n", "--name=x", "sleep"}} {
			var diag buffer
			cmd := exec.Command(flock, append([]string{"--verbose", "-E", "9"}, append(args, "3")...)...)
			cmd.ExtraFiles, cmd.Stderr = []*os.File{shells}, &diag
			if strings.Contains(strings.Join(args, " "), "--name") {
				must(t, errors.Join(os.Mkdir("/run/lock", 0o755), os.WriteFile("/run/lock/x", nil, 0o600)))
				hold(t, "/run/lock/x", linux.LOCK_EX)
			}
			must(t, cmd.Start())
			until(t, "it ends", func() bool { return dead(cmd.Process.Pid) })
			if got := end(cmd); got != "exit 9" || !strings.Contains(diag.String(), "no lock on") {
				t.Errorf("%v: %s, %s", args, got, diag.String())
			}
			t.Log(strings.TrimSpace(diag.String()))
		}
		// While there is time, who can be found is, and what cannot be is said.
		var diag buffer
		waiter := exec.Command(flock, "--report=1", "3")
		waiter.ExtraFiles, waiter.Stderr = []*os.File{shells}, &diag
		must(t, waiter.Start())
		who := fmt.Sprintf("held by process %d (", os.Getpid())
		until(t, "the holder is told", func() bool { return strings.Contains(diag.String(), who) })
		must(t, waiter.Process.Kill())
		_ = waiter.Wait()

		var out buffer
		cmd := start(t, "/run", []string{flock}, nil, &out, "-F", "--report", "0.01", "F", "sh", "-c", "echo ran; cat /proc/$$/task/$$/children")
		waiting(t, "/run/F", 1)
		release()
		if got := end(cmd); got != "exit 0" || !strings.HasPrefix(out.String(), "ran\n") || strings.Count(strings.TrimSpace(out.String()), " ") > 0 {
			t.Errorf("it became the command: %s, %q", got, out.String())
		}
		must(t, linux.Flock(int(shells.Fd()), linux.LOCK_EX|linux.LOCK_NB))
		must(t, shells.Close())
		isFree(t, "/run/F", "after the shell has closed it,")
	})
}
