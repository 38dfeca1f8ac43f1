package vmtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/testenv"
)

// Kernel is one of the kernels that test/deps.d/kernels.sh fetches, by the Debian
// release it is from.
type Kernel string

const (
	Bookworm Kernel = "bookworm" // 6.1
	Trixie   Kernel = "trixie"   // 6.12
	Forky    Kernel = "forky"    // 7.2 or later
)

// Kernels is all of them, the oldest first.
var Kernels = []Kernel{Bookworm, Trixie, Forky}

// dir is where the kernel is.
func (k Kernel) dir() string { return filepath.Join(testenv.DepsDir(), "kernels", string(k)) }

// Release is what uname -r says under k.
func (k Kernel) Release() (string, error) {
	text, err := os.ReadFile(filepath.Join(k.dir(), "release"))
	return strings.TrimSpace(string(text)), err
}

// Machine is a virtual machine before it is started. Nothing in it refers to the
// machine outside but by content: what the guest changes stays in the guest,
// except on Disk.
type Machine struct {
	// Kernel is required.
	Kernel Kernel

	// Init is the path of a program outside that becomes /init. Args are its
	// arguments, without argv[0]; they may not hold spaces.
	Init string
	Args []string

	// Files maps paths in the initramfs to files or directories outside. All of
	// it belongs to root.
	Files map[string]string
	// Text maps paths in the initramfs to contents; files are executable.
	Text map[string]string
	// Links maps paths in the initramfs to targets of symbolic links.
	Links map[string]string

	// Modules names kernel modules to put into /lib/modules: those that
	// kernels.sh keeps, with what they need. LoadModule loads one.
	Modules []string

	// Disk becomes /dev/nvme0n1, with what was written to it before. Without Init,
	// Files, Text and Links there is no initramfs and the kernel boots from it:
	// pass "root=/dev/nvme0n1 rw init=..." as Append.
	Disk *Disk

	// Append is added to the kernel's command line, which has at most 2047 bytes.
	Append string

	// Memory is in MiB, 512 if 0.
	Memory int

	// Timeout is how long the machine may run, 5 minutes if 0. The deadline of
	// the test shortens it.
	Timeout time.Duration
}

// End is how a machine came to its end.
type End string

const (
	PoweredOff End = "powered off"
	Rebooted   End = "rebooted"
	Panicked   End = "the kernel panicked"
	TimedOut   End = "did not end in time"
	Crashed    End = "QEMU ended by itself"
)

// Result is what became of a machine.
type Result struct {
	End End
	// Exit is what the guest sent as its exit status, -1 if it sent none.
	Exit int
	// Output is what the guest wrote to /dev/ttyS1 and what is not a frame.
	Output string
	// Console is what came out of ttyS0, where the kernel writes.
	Console string

	detail string // of a crash
	frames []frame
}

// String has everything that a person wants to see of a failure.
func (r *Result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "the virtual machine: %s", r.End)
	if r.detail != "" {
		fmt.Fprintf(&b, " (%s)", r.detail)
	}
	if r.Exit >= 0 {
		fmt.Fprintf(&b, ", exit status %d", r.Exit)
	}
	fmt.Fprintf(&b, "\n--- output\n%s\n--- console\n%s", tail(r.Output, 100), tail(r.Console, 60))
	return b.String()
}

// tail is the last n lines of s.
func tail(s string, n int) string {
	s = strings.TrimRight(s, "\n")
	lines := strings.Split(s, "\n")
	if len(lines) <= n {
		return s
	}
	return fmt.Sprintf("(%d lines left out)\n%s", len(lines)-n, strings.Join(lines[len(lines)-n:], "\n"))
}

// Need ends t by the rules of testenv where virtual machines cannot run.
func Need(t testing.TB, k Kernel) {
	t.Helper()
	testenv.Need(t, amd64, testenv.Tool("qemu-system-x86_64"), testenv.Dep("kernels/"+string(k)+"/vmlinuz"))
}

var amd64 = testenv.Requirement{What: "an x86-64 machine", Check: func() error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("this is %s; the kernels and the test binary must be of the same architecture", runtime.GOARCH)
	}
	return nil
}}

// Boot runs m to its end. It ends t where virtual machines cannot run, or where m
// cannot be started; how m ended is for the caller to judge.
func Boot(t testing.TB, m Machine) *Result {
	t.Helper()
	Need(t, m.Kernel)
	r, err := m.boot(t, nil)
	if err != nil {
		t.Fatalf("vmtest: %v", err)
	}
	return r
}

// boot starts QEMU and waits. Output lines go to sink as they come, if it is not
// nil.
func (m Machine) boot(t testing.TB, sink func(line string)) (*Result, error) {
	dir, err := os.MkdirTemp("", "vmtest") // t.TempDir may be too long for a socket
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	args, err := m.qemuArgs(dir)
	if err != nil {
		return nil, err
	}
	timeout := m.Timeout
	if timeout == 0 {
		timeout = 5 * time.Minute
	}
	if d, ok := t.(interface{ Deadline() (time.Time, bool) }); ok {
		if at, ok := d.Deadline(); ok {
			left := time.Until(at)
			timeout = min(timeout, max(left-min(left/20, 3*time.Second), time.Second))
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	return runQEMU(ctx, dir, args, sink)
}

// cmdlineStart also tells the guest that it is one of ours. Under emulation on a
// busy machine the check of the timer fails (no_timer_check).
const cmdlineStart = "vmtest console=ttyS0 quiet panic=-1 no_timer_check "

// qemuArgs builds the initramfs in dir and the command line.
func (m Machine) qemuArgs(dir string) ([]string, error) {
	kernel := filepath.Join(m.Kernel.dir(), "vmlinux") // QEMU starts it sooner
	if _, err := os.Stat(kernel); err != nil {
		kernel = filepath.Join(m.Kernel.dir(), "vmlinuz")
	}
	memory := m.Memory
	if memory == 0 {
		memory = 512
	}
	// panic=-1 restarts at once, and -no-reboot ends QEMU then.
	cmdline := cmdlineStart + m.Append
	if len(m.Args) > 0 {
		cmdline += " -- " + strings.Join(m.Args, " ")
	}
	if len(cmdline) > 2047 {
		return nil, fmt.Errorf("the kernel's command line has %d bytes, 2047 are possible", len(cmdline))
	}
	// Without cx16: in about one boot of twelve QEMU 7.2 leaves rubbish in EFLAGS
	// after cmpxchg16b, the kernel's allocator uses that on every allocation, and
	// the next instruction double-faults (__kmalloc_noprof+0x130 under 6.12).
	args := []string{
		"-M", "pc", "-accel", "tcg", "-cpu", "max,-cx16", "-smp", "1", "-m", strconv.Itoa(memory),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", kernel, "-append", cmdline,
	}
	if m.Init != "" || len(m.Files) > 0 || len(m.Text) > 0 || len(m.Links) > 0 {
		initrd := filepath.Join(dir, "initrd")
		if err := m.writeInitrd(initrd); err != nil {
			return nil, fmt.Errorf("making the initramfs: %w", err)
		}
		args = append(args, "-initrd", initrd)
	}
	if m.Disk != nil {
		args = append(args, "-drive", "file="+m.Disk.Path+",if=none,id=disk0,format=raw,cache=unsafe", "-device", "nvme,drive=disk0,serial=slashrun")
	}
	return args, nil
}

// writeInitrd writes the archive of the initramfs.
func (m Machine) writeInitrd(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	a := newArchive(f)
	// The kernel opens /dev/console for PID 1 before anything is mounted.
	a.device("/dev/console", 0o020600, 5, 1)
	a.device("/dev/null", 0o020666, 1, 3)
	for _, d := range []string{"/proc", "/sys", "/run"} {
		a.dir(d, 0o755)
	}
	a.dir("/tmp", 0o1777)
	if m.Init != "" {
		if err := a.program("/init", m.Init); err != nil {
			return err
		}
	}
	if err := m.addModules(a); err != nil {
		return err
	}
	for _, dst := range sortedKeys(m.Files) {
		if err := a.tree(dst, m.Files[dst]); err != nil {
			return err
		}
	}
	for _, dst := range sortedKeys(m.Text) {
		a.file(dst, 0o755, []byte(m.Text[dst]))
	}
	for _, dst := range sortedKeys(m.Links) {
		a.link(dst, m.Links[dst])
	}
	if err := a.close(); err != nil {
		return err
	}
	return f.Close()
}

// addModules adds m.Modules and what they need, with the order to load them in.
func (m Machine) addModules(a *archive) error {
	if len(m.Modules) == 0 {
		return nil
	}
	dir := filepath.Join(m.Kernel.dir(), "modules")
	order, err := os.ReadFile(filepath.Join(dir, "order"))
	if err != nil {
		return err
	}
	a.file(moduleDir+"/order", 0o644, order)
	for _, name := range m.Modules {
		list, ok := moduleOrder(string(order), name)
		if !ok {
			return fmt.Errorf("the module %s is not kept: add it to test/deps.d/kernels.sh", name)
		}
		for _, need := range list {
			if err := a.tree(moduleDir+"/"+need+".ko", filepath.Join(dir, need+".ko")); err != nil {
				return err
			}
		}
	}
	return nil
}

// moduleDir is where the modules are inside.
const moduleDir = "/lib/modules"

// moduleOrder finds the line "NAME: NEEDED... NAME" in the text of the file order.
func moduleOrder(order, name string) (list []string, ok bool) {
	for line := range strings.Lines(order) {
		if head, rest, _ := strings.Cut(line, ":"); head == name {
			return strings.Fields(rest), true
		}
	}
	return nil, false
}

// Disk is a raw image on which changes stay from one boot to the next.
type Disk struct {
	// Path of the image file outside.
	Path string
}

// NewDisk makes an ext4 file system with the files of the directory tree in it,
// all owned by root, in a file of size bytes that is removed with the test. An
// empty tree makes an empty one.
func NewDisk(t testing.TB, tree string, size int64) *Disk {
	t.Helper()
	testenv.Need(t, testenv.Tool("mke2fs"))
	d := &Disk{Path: filepath.Join(t.TempDir(), "disk.img")}
	f, err := os.Create(d.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	mke2fs, err := testenv.LookTool("mke2fs")
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-q", "-t", "ext4", "-E", "root_owner=0:0,lazy_itable_init=1", "-F"}
	if tree != "" {
		args = append(args, "-d", tree)
	}
	if out, err := exec.Command(mke2fs, append(args, d.Path)...).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	return d
}
