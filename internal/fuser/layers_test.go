package fuser

import (
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/sockdiag"
	"github.com/slashrun/slashrun/internal/testenv"
	"github.com/slashrun/slashrun/internal/vmtest"
)

// On an overlay stat(2), the mappings, /proc/locks and sock_diag each have their
// own numbers for a file: of one layer, of two on one file system, of two on two.
func TestOverlay(t *testing.T) {
	testenv.Need(t, testenv.Root)
	nstest.Run(t, nstest.Options{Real: true, Net: true}, func(t *testing.T) {
		for _, apart := range []bool{false, true} {
			t.Run(fmt.Sprintf("apart=%v", apart), func(t *testing.T) { testOverlay(t, apart, "") })
		}
	})
}

// In a user namespace the links of the mappings cannot be followed.
func TestOverlayWithoutPrivileges(t *testing.T) {
	nstest.Run(t, nstest.Options{Net: true}, func(t *testing.T) {
		testenv.Need(t, testenv.Requirement{What: "overlayfs on tmpfs in a user namespace (Linux 6.6)", Check: func() error {
			dir := t.TempDir()
			for _, name := range []string{"l", "u", "w", "m"} {
				must(t, os.Mkdir(dir+"/"+name, 0o755))
			}
			err := linux.Mount("none", dir+"/m", "overlay", 0, fmt.Sprintf("lowerdir=%s/l,upperdir=%s/u,workdir=%s/w,userxattr", dir, dir, dir))
			if err == nil {
				linux.Unmount(dir+"/m", syscall.MNT_DETACH)
			}
			return err
		}})
		for _, apart := range []bool{false, true} {
			t.Run(fmt.Sprintf("apart=%v", apart), func(t *testing.T) { testOverlay(t, apart, ",userxattr") })
		}
	})
}

func testOverlay(t *testing.T, apart bool, options string) {
	p := openProc(t)
	dir := t.TempDir()
	for _, name := range []string{"lower", "up", "merged"} {
		must(t, os.Mkdir(dir+"/"+name, 0o755))
	}
	if apart {
		must(t, linux.Mount("none", dir+"/lower", "tmpfs", 0, ""))
		defer linux.Unmount(dir+"/lower", syscall.MNT_DETACH)
		for i := range 100 { // so that equal numbers of the two are of different files
			must(t, os.WriteFile(fmt.Sprintf("%s/lower/fill%d", dir, i), nil, 0o644))
		}
	}
	files := []string{"plain", "copied", "map", "mapgone", "lock"}
	for _, name := range files {
		must(t, os.WriteFile(dir+"/lower/"+name, make([]byte, 4096), 0o644))
	}
	must(t, os.Mkdir(dir+"/up/upper", 0o755))
	must(t, os.Mkdir(dir+"/up/work", 0o755))
	at := dir + "/merged"
	must(t, linux.Mount("none", at, "overlay", 0, fmt.Sprintf("lowerdir=%s/lower,upperdir=%s/up/upper,workdir=%s/up/work", dir, dir, dir)+options))
	defer linux.Unmount(at, syscall.MNT_DETACH)

	a := start(t)
	a.must(order{Do: "open", Path: at + "/plain"})
	a.must(order{Do: "open", Path: at + "/copied", Flags: os.O_RDWR})
	a.must(order{Do: "map", Path: at + "/map", Flags: syscall.PROT_READ})
	a.must(order{Do: "map", Path: at + "/mapgone", Flags: syscall.PROT_READ | syscall.PROT_WRITE})
	a.must(order{Do: "flock", Path: at + "/lock"})
	a.must(order{Do: "listen", Path: at + "/sock", Type: syscall.SOCK_STREAM, Flags: 4})
	_, err := sockdiag.Dump()
	listed := !vmtest.Inside() || err == nil
	o := map[string]Object{}
	for _, name := range append(files, "sock") {
		o[name] = identify(t, p, at+"/"+name)
	}
	must(t, os.Remove(at+"/mapgone"))
	line := func(format string) string { return fmt.Sprintf("%d "+format, a.pid) }
	for _, whole := range []bool{true, false} {
		opts := Options{Sockets: true}
		for _, ob := range o {
			if whole {
				opts.Devices = append(opts.Devices, ob.Device())
			} else {
				opts.Objects = append(opts.Objects, ob)
			}
		}
		x := scanFor(t, p, opts)
		want(t, x, o["plain"], line("open r"))
		want(t, x, o["copied"], line("open rw"))
		want(t, x, o["map"], line("mapped r"))
		want(t, x, o["mapgone"], line("mapped rw"))
		want(t, x, o["lock"], line("open rw"), line("locked rw FLOCK"))
		if listed && (!whole || !apart) { // the whole of it is known by the numbers of stat(2) alone
			want(t, x, o["sock"], line("listening stream 0/4"))
		}
	}
}

// An old kernel with other numbers of overlays, and without the module that lists
// unix sockets, which is not loaded there.
func TestOldKernel(t *testing.T) {
	if !vmtest.Inside() {
		testenv.Need(t, testenv.Root) // it needs none: one pass of the two is enough for a boot
	}
	vmtest.Run(t, vmtest.Options{Kernel: vmtest.Bookworm, Modules: []string{"overlay", "fuse"}}, func(t *testing.T) {
		t.Run("ways", testWays)
		t.Run("overlay", func(t *testing.T) { testOverlay(t, true, "") })
		t.Run("hung", testHung)
		t.Run("no unix_diag", func(t *testing.T) {
			a := start(t)
			l := a.must(order{Do: "listen", Path: "/run/sock", Type: syscall.SOCK_STREAM, Flags: 1})
			p := openProc(t)
			o := identify(t, p, "/run/sock")
			x := scanFor(t, p, Options{Objects: []Object{o}, Sockets: true})
			if want(t, x, o); !mentions(x.Incomplete, "no list of unix sockets") {
				t.Errorf("%q, descriptor %d", x.Incomplete, l.FD)
			}
		})
	})
}
