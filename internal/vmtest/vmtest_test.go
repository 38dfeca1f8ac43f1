package vmtest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/feature"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/testenv"
)

func TestMain(m *testing.M) {
	if kind := os.Getenv("VMTEST_INIT"); kind != "" && os.Getpid() == 1 {
		badInit(kind)
	}
	Main(m)
}

// badInit is /init of the machines that TestEndsAreToldApart boots.
func badInit(kind string) {
	if err := MountAPI(); err != nil {
		fmt.Println(err)
	}
	Send("init " + kind)
	switch kind {
	case "status":
		SendExit(3)
		PowerOff()
	case "restart":
		SendExit(0)
		Restart()
	case "panics":
		panic("a panic of PID 1")
	case "exits":
		os.Exit(0)
	case "hangs":
		hang()
	}
}

// hang never returns. A select without cases would not do: where no other goroutine
// and no timer is left, the runtime takes it for a deadlock and ends the program.
func hang() {
	for {
		time.Sleep(time.Hour)
	}
}

func TestEndsAreToldApart(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		kind string
		end  End
		exit int
		want string
	}{
		{"status", PoweredOff, 3, "init status"},
		{"restart", Rebooted, 0, "init restart"},
		{"panics", Panicked, -1, "a panic of PID 1"},
		{"exits", Panicked, -1, "Attempted to kill init"},
		{"hangs", TimedOut, -1, "init hangs"},
	} {
		t.Run(c.kind, func(t *testing.T) {
			if c.kind != "status" {
				testenv.Need(t, testenv.Root) // one boot as an ordinary user will do
			}
			t.Parallel()
			m := Machine{Kernel: Bookworm, Init: exe, Append: "VMTEST_INIT=" + c.kind}
			if c.end == TimedOut {
				m.Timeout = 90 * time.Second // a boot takes 5 s, and longer where others compile
			}
			r := Boot(t, m)
			if r.End != c.end || r.Exit != c.exit || !strings.Contains(r.String(), c.want) {
				t.Errorf("want: %s, exit status %d, %q in it; got:\n%v", c.end, c.exit, c.want, r)
			}
		})
	}
}

func TestThreeKernels(t *testing.T) {
	for _, k := range Kernels {
		t.Run(string(k), func(t *testing.T) {
			if k != Trixie {
				testenv.Need(t, testenv.Root) // one boot as an ordinary user will do
			}
			want := "Inside has it"
			if !Inside() {
				Need(t, k)
				var err error
				if want, err = k.Release(); err != nil {
					t.Fatal(err)
				}
			}
			Run(t, Options{Kernel: k, Env: []string{"WANT=" + want}, Modules: []string{"overlay"}}, func(t *testing.T) {
				text, err := os.ReadFile("/proc/sys/kernel/osrelease")
				if got := strings.TrimSpace(string(text)); err != nil || got != os.Getenv("WANT") {
					t.Errorf("release %q, %v; want %q", got, err, os.Getenv("WANT"))
				}
				t.Logf("Linux %s", bytes.TrimSpace(text))
				checkSystem(t)
				checkFeatures(t, k)
			})
		})
	}
}

// checkFeatures reports what the kernel has, and holds that the three kernels are
// three different sets: otherwise they would not test the fallbacks.
func checkFeatures(t *testing.T, k Kernel) {
	if err := feature.MountContext.Err(); err != nil {
		t.Errorf("%s: %v", feature.MountContext.Name(), err)
	}
	symbols, err := os.ReadFile("/proc/kallsyms")
	if err != nil {
		t.Fatal(err)
	}
	for call, since := range map[string]Kernel{
		"mount_setattr": Bookworm, "fchmodat2": Trixie, "statmount": Trixie, "setxattrat": Forky,
	} {
		has := bytes.Contains(symbols, []byte(" __x64_sys_"+call+"\n"))
		t.Logf("%s: %v", call, has)
		if want := slices.Index(Kernels, k) >= slices.Index(Kernels, since); has != want {
			t.Errorf("%s has %s: %v, want %v", k, call, has, want)
		}
	}
	dir := t.TempDir()
	noswap := linux.Mount("x", dir, "tmpfs", 0, "noswap") == nil
	if noswap {
		if err := linux.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}
	if noswap != (k != Bookworm) {
		t.Errorf("%s has tmpfs with noswap: %v", k, noswap)
	}
}

// checkSystem looks for what the package documentation promises.
func checkSystem(t *testing.T) {
	if !Inside() || os.Getuid() != 0 {
		t.Errorf("Inside() = %v, user %d", Inside(), os.Getuid())
	}
	for _, path := range []string{"/proc/self/stat", "/sys/kernel", "/dev/urandom", "/dev/ptmx", "/dev/shm", "testdata/hello"} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	if root, err := testenv.ModuleRoot(); err != nil {
		t.Errorf("the module's root, %s: %v", root, err)
	}
	text, err := os.ReadFile("/sys/fs/cgroup/cgroup.subtree_control")
	for _, name := range []string{"cpu", "io", "memory", "pids"} {
		if err != nil || !strings.Contains(string(text), name) {
			t.Errorf("controllers %q, %v; want %s", text, err, name)
		}
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs("/run", &st); err != nil || st.Type != 0x01021994 {
		t.Errorf("/run: type %#x, %v; want tmpfs", st.Type, err)
	}
	text, err = os.ReadFile("/proc/filesystems")
	if err != nil || !strings.Contains(string(text), "overlay") {
		t.Errorf("the module overlay is not loaded: %v", err)
	}
	dir := t.TempDir()
	if err := syscall.Mknod(filepath.Join(dir, "null"), syscall.S_IFCHR|0o666, 1<<8|3); err != nil {
		t.Errorf("mknod: %v", err)
	} else if err := os.WriteFile(filepath.Join(dir, "null"), []byte("x"), 0); err != nil {
		t.Errorf("writing to a device node of our own: %v", err)
	}
}

// TestSubject holds the tests that end badly; TestWhatHappensInsideIsSeenOutside
// starts them.
func TestSubject(t *testing.T) {
	if os.Getenv("VMTEST_SUBJECT") == "" {
		return
	}
	o := Options{Kernel: Bookworm, Env: []string{"VMTEST_SUBJECT=1"}}
	for name, f := range map[string]func(t *testing.T){
		"skips":  func(t *testing.T) { t.Skip("a reason inside") },
		"panics": func(t *testing.T) { panic("a panic inside") },
		"exits0": func(t *testing.T) { syscall.Exit(0) },
		"powersOff": func(t *testing.T) {
			Send("about to power off")
			PowerOff()
		},
		"hangs": func(t *testing.T) { hang() },
		"leavesProcesses": func(t *testing.T) {
			cmd := exec.Command("/init", "-test.run=^TestSleep$")
			cmd.Env = append(os.Environ(), "VMTEST_SLEEP=1")
			cmd.Stdout = os.Stdout
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) { Run(t, o, f) })
	}
}

func TestSleep(t *testing.T) {
	if os.Getenv("VMTEST_SLEEP") != "" {
		hang()
	}
}

func TestWhatHappensInsideIsSeenOutside(t *testing.T) {
	for _, c := range []struct {
		name string
		fail bool
		want []string
		args []string
	}{
		{"skips", false, []string{"a reason inside", "--- SKIP"}, nil},
		{"panics", true, []string{"a panic inside", "goroutine "}, nil},
		{"exits0", true, []string{"did not come to its end"}, nil},
		{"powersOff", true, []string{"did not come to its end", "about to power off"}, nil},
		{"hangs", true, []string{"test timed out", "TestSubject"}, []string{"-test.timeout=90s"}},
		{"leavesProcesses", false, []string{"--- PASS: TestSubject/leavesProcesses"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			testenv.Need(t, testenv.Root) // one boot as an ordinary user will do
			Need(t, Bookworm)
			t.Parallel()
			cmd := exec.Command("/proc/self/exe", append([]string{"-test.run=^TestSubject$/^" + c.name + "$", "-test.v"}, c.args...)...)
			cmd.Env = append(os.Environ(), "VMTEST_SUBJECT=1")
			out, err := cmd.CombinedOutput()
			if (err != nil) != c.fail {
				t.Errorf("error %v, want failure %v", err, c.fail)
			}
			for _, want := range c.want {
				if !strings.Contains(string(out), want) {
					t.Errorf("the output does not have %q", want)
				}
			}
			if t.Failed() {
				t.Logf("output:\n%s", out)
			}
		})
	}
}

// A disk keeps what a boot wrote to it.
func TestDiskStaysAndBoots(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Tool("busybox")) // root: see above
	busybox, err := testenv.LookTool("busybox")
	if err != nil {
		t.Fatal(err)
	}
	tree := t.TempDir()
	for _, d := range []string{"bin", "dev", "proc", "sys"} {
		if err := os.Mkdir(filepath.Join(tree, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(tree+"/bin/busybox", program, 0o755); err != nil {
		t.Fatal(err)
	}
	script := `#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
echo "boot: $(/bin/busybox cat /count 2>&1)" >/dev/ttyS1
echo again >>/count
echo 'vmtest:{"exit":0}' >/dev/ttyS1
exec /bin/busybox reboot -f
`
	if err := os.WriteFile(tree+"/init", []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	Need(t, Forky)
	m := Machine{Kernel: Forky, Disk: NewDisk(t, tree, 64<<20), Append: "root=/dev/nvme0n1 rw init=/init"}
	for i, want := range []string{"No such file", "boot: again\n"} {
		r := Boot(t, m)
		if r.End != Rebooted || r.Exit != 0 || !strings.Contains(r.Output, want) {
			t.Errorf("boot %d: want %q\n%v", i, want, r)
		}
	}
}

func TestNothingIsSwitchedOffByMistake(t *testing.T) {
	if Inside() {
		return
	}
	defer func() {
		if recover() == nil {
			t.Error("PowerOff returned")
		}
	}()
	PowerOff()
}

// cpio is the judge of our archives.
func TestArchiveIsCpio(t *testing.T) {
	testenv.Need(t, testenv.Tool("cpio"))
	src := t.TempDir()
	os.MkdirAll(src+"/d/e", 0o750)
	os.WriteFile(src+"/d/file", []byte("12345"), 0o640)
	os.WriteFile(src+"/d/e/empty", nil, 0o600)
	os.Symlink("file", src+"/d/link")
	os.Chmod(src+"/d/e", 0o750)
	var buf bytes.Buffer
	a := newArchive(&buf)
	a.device("/dev/null", 0o020666, 1, 3)
	if err := a.tree("/x/y", src); err != nil {
		t.Fatal(err)
	}
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cpio", "-itvn", "--quiet")
	cmd.Stdin = &buf
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got := strings.Join(strings.Fields(string(out)), " ")
	for _, want := range []string{
		"crw-rw-rw- 1 0 0 1, 3", "drwxr-x--- 2 0 0 0", "-rw-r----- 1 0 0 5", "-rw------- 1 0 0 0", "x/y/d/link -> file",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}
