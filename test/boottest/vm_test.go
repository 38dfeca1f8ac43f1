package boottest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slashrun/slashrun/internal/testenv"
	"github.com/slashrun/slashrun/internal/vmtest"
)

// debianTree unpacks Debian's sysvinit tree, with slashrun, busybox and the
// configuration that a packaged service would bring. Its own init is not used: the
// script init is PID 1.
func debianTree(t *testing.T, init string) string {
	t.Helper()
	const archive = "roots/sysvinit.tar.zst"
	testenv.Need(t, testenv.Root, testenv.Tool("busybox"), testenv.Tool("tar"), testenv.Tool("zstd"), testenv.Dep(archive))
	tree := t.TempDir()
	out, err := exec.Command("tar", "-C", tree, "--zstd", "--exclude=./usr/share/*", "--exclude=./usr/lib/x86_64-linux-gnu/perl*",
		"-xf", filepath.Join(testenv.DepsDir(), archive)).CombinedOutput()
	if err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	busybox, err := testenv.LookTool("busybox")
	must(t, err)
	copyFile(t, busybox, tree+"/bin/busybox")
	copyFile(t, program(t), tree+"/usr/bin/slashrun")
	must(t, os.WriteFile(tree+"/usr/lib/tmpfiles.d/app.conf", []byte("d /run/app 0750 root adm\nr! /var/lib/stale\nf /run/app/once 0644 root root - made\n"), 0o644))
	must(t, os.MkdirAll(tree+"/run/leftover", 0o755))
	must(t, os.WriteFile(tree+"/run/old.pid", []byte("1\n"), 0o644))
	// Roots of before usr-merge times have these as directories.
	must(t, os.RemoveAll(tree+"/var/run"))
	must(t, os.MkdirAll(tree+"/var/run/kept", 0o755))
	must(t, os.WriteFile(tree+"/init-test", []byte(init), 0o755))
	return tree
}

// common is the beginning of each script: every check that fails says so, and the
// exit status counts them.
const common = `#!/bin/busybox sh
export PATH=/usr/bin:/bin
bad=0
say() { echo "$*" >/dev/ttyS1; }
check() { if ! eval "$1"; then say "FAILED: $1"; bad=$((bad+1)); fi; }
end() { say "vmtest:{\"exit\":$bad}"; busybox sync; exec busybox $1 -f; }
`

// laidOut are checks of a finished /run.
const laidOut = `
check 'grep -q "^tmpfs /run tmpfs rw,nosuid,nodev" /proc/mounts'
check 'grep -q "^tmpfs /run/lock tmpfs .*size=5120k" /proc/mounts'
check 'grep -q "^tmpfs /run/slashrun tmpfs" /proc/mounts'
check 'test "$(busybox stat -c %a /run/lock)" = 1777'
check 'test -s /run/slashrun/boot'
check 'test "$(busybox cat /run/app/once)" = made'
check 'test "$(busybox readlink /var/run)" = /run'
check 'test -d /var/run.slashrun-old/kept -o -d /var/run.slashrun-old.1/kept'
check 'test ! -e /run/old.pid'
check 'test ! -e /run/leftover'
check 'test ! -e /var/lib/stale'
check 'test ! -e /run/systemd/system'
check 'busybox grep -q "$(busybox cat /proc/sys/kernel/random/boot_id)" /run/slashrun/boot'
`

// The whole way on each kernel: the initramfs lays out /run, hands it over, the
// real root does the rest, and after a reboot all is made anew. The kernels of
// before 6.15 cannot mount on a detached mount, 6.1 knows no noswap.
func TestInitramfsHandOverAndReboot(t *testing.T) {
	for _, k := range vmtest.Kernels {
		t.Run(string(k), func(t *testing.T) {
			vmtest.Need(t, k)
			disk := vmtest.NewDisk(t, debianTree(t, common+`
				busybox mount -t proc proc /proc
				busybox mount -o remount,rw /
				check 'test -e /run/from-initramfs'
				slashrun boot --late --profile debian >/dev/ttyS1 2>&1; code=$?
				check "test $code = 0"
				`+laidOut+`
				slashrun boot --profile debian -v >/tmp/again 2>&1; code=$?
				check "test $code = 0"
				check 'test ! -s /tmp/again'; busybox cat /tmp/again >/dev/ttyS1
				busybox cat /run/slashrun/boot >>/stamps
				echo x >/var/lib/stale
				say "stamps: $(busybox sort -u /stamps | busybox grep -c boot_id)"
				if test "$(busybox sort -u /stamps | busybox grep -c boot_id)" = 1; then end reboot; else end poweroff; fi
			`), 256<<20)
			m := vmtest.Machine{
				Kernel: k,
				Text: map[string]string{"/init": common + `
					busybox mount -t devtmpfs dev /dev
					busybox mkdir -p /run /root /proc
					slashrun boot --initramfs --profile debian --noswap >/dev/ttyS1 2>&1; code=$?
					check "test $code = 0 -o $code = 4" # 4: no noswap before 6.4
					echo x >/run/from-initramfs
					until busybox mount -t ext4 -o ro /dev/nvme0n1 /root 2>/dev/null; do busybox sleep 0.1; done
					busybox mount -t proc proc /proc
					slashrun boot --initramfs --newroot /root --profile debian --noswap >/dev/ttyS1 2>&1; code=$?
					check "test $code = 0 -o $code = 4"
					slashrun boot --initramfs --newroot /root --profile debian >/dev/ttyS1 2>&1; code=$?
					check "test $code = 0"
					busybox umount /proc
					busybox mount -o move /dev /root/dev
					test $bad = 0 || end poweroff
					exec busybox switch_root /root /init-test
				`},
				Files: map[string]string{"/bin/busybox": "/usr/bin/busybox", "/bin/slashrun": program(t)},
				Links: map[string]string{"/bin/sh": "busybox", "/bin/grep": "busybox", "/bin/test": "busybox"},
				Disk:  disk,
			}
			for i, want := range []vmtest.End{vmtest.Rebooted, vmtest.PoweredOff} {
				r := vmtest.Boot(t, m)
				if r.End != want || r.Exit != 0 {
					t.Fatalf("boot %d: want %s\n%v", i+1, want, r)
				}
				if !strings.Contains(r.Output, "stamps: "+[]string{"1", "2"}[i]) {
					t.Errorf("boot %d has the stamp of another\n%v", i+1, r)
				}
			}
		})
	}
}

// A boot without an initramfs: the root is read-only, no /proc is mounted, and
// what lay in /run on disk is from before.
func TestReadOnlyRootWithoutProc(t *testing.T) {
	vmtest.Need(t, vmtest.Bookworm)
	disk := vmtest.NewDisk(t, debianTree(t, common+`
		busybox mount -t devtmpfs dev /dev
		check 'test ! -e /proc/self'
		slashrun boot --early --profile debian >/dev/ttyS1 2>&1; code=$?
		check "test $code = 0"
		busybox mount -t proc proc /proc
		check 'grep -q "^/dev/root / ext4 ro" /proc/mounts'
		busybox mount -o remount,rw /
		slashrun boot --late --profile debian >/dev/ttyS1 2>&1; code=$?
		check "test $code = 0"
		`+laidOut+`
		end poweroff
	`), 256<<20)
	r := vmtest.Boot(t, vmtest.Machine{Kernel: vmtest.Bookworm, Disk: disk, Append: "root=/dev/nvme0n1 ro init=/init-test"})
	if r.End != vmtest.PoweredOff || r.Exit != 0 || !strings.Contains(r.Output, "old.pid") {
		t.Errorf("%v", r)
	}
}

// In a cgroup of 64 MiB the size is 20 % of that and not of the machine's memory.
func TestSizeInASmallCgroup(t *testing.T) {
	vmtest.Need(t, vmtest.Trixie)
	r := vmtest.Boot(t, vmtest.Machine{
		Kernel: vmtest.Trixie,
		Text: map[string]string{"/init": common + `
			busybox mkdir -p /run /proc /sys /dev
			busybox mount -t devtmpfs dev /dev
			busybox mount -t proc proc /proc
			busybox mount -t sysfs sys /sys
			busybox mount -t cgroup2 cg /sys/fs/cgroup
			echo +memory >/sys/fs/cgroup/cgroup.subtree_control
			busybox mkdir -p /sys/fs/cgroup/small/inner
			echo 64M >/sys/fs/cgroup/small/memory.max
			(echo 0 >/sys/fs/cgroup/small/inner/cgroup.procs; exec slashrun boot --early >/dev/ttyS1 2>&1)
			check 'grep -q "^tmpfs /run tmpfs .*size=13104k" /proc/mounts' # 64 MiB / 100 * 20 in pages of 4 KiB
			busybox grep " /run " /proc/mounts >/dev/ttyS1
			end poweroff
		`},
		Files: map[string]string{"/bin/busybox": "/usr/bin/busybox", "/bin/slashrun": program(t)},
		Links: map[string]string{"/bin/sh": "busybox", "/bin/grep": "busybox"},
	})
	if r.End != vmtest.PoweredOff || r.Exit != 0 {
		t.Errorf("%v", r)
	}
}
