package exectest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/podtest"
	"github.com/slashrun/slashrun/internal/testenv"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// Where the programs are that TestMain's process, outside of the namespaces, built.
const programsEnv = "SLASHRUN_EXECTEST_PROGRAMS"

// A world is podman with the images of the examples that a test names.
type world struct {
	*podtest.Podman
}

// aptGet stands in for apt-get in the base image: there is no network where the
// images are built, and the packages that the Containerfiles install are in the tree
// already. It fails for any that is not.
const aptGet = `#!/bin/sh
[ "$1" = install ] || exit 0
for word; do
	case $word in install | -*) ;; *) dpkg -s "$word" >/dev/null || exit 1 ;; esac
done
`

// inWorld runs f inside, with the images of the named examples.
func inWorld(t *testing.T, rootless bool, driver podtest.Driver, names []string, f func(t *testing.T, w *world)) {
	t.Helper()
	const tree = "roots/services.tar.zst"
	testenv.Need(t, testenv.Root, testenv.Tool("zstd"), testenv.Tool("nsenter"), testenv.Dep(tree))
	archive := filepath.Join(testenv.DepsDir(), tree)
	programs := os.Getenv(programsEnv)
	if !nstest.Inside() {
		programs = t.TempDir()
		build(t, programs+"/slashrun", "./cmd/slashrun")
		build(t, programs+"/rails", "./test/exectest/rails")
	}
	o := podtest.Options{
		Rootless: rootless, Driver: driver,
		Keep: []string{programs, archive}, Env: []string{programsEnv + "=" + programs},
	}
	podtest.Run(t, o, func(t *testing.T, p *podtest.Podman) {
		w := &world{p}
		w.buildImages(t, archive, programs, names)
		f(t, w)
	})
}

// build makes a static program, as the release does.
func build(t *testing.T, out, pkg string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, pkg)
	cmd.Dir = moduleRoot(t)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, text)
	}
}

func moduleRoot(t testing.TB) string {
	t.Helper()
	root, err := testenv.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// buildImages builds the Containerfiles as they are: the images that their FROM and
// COPY lines name are made here.
func (w *world) buildImages(t *testing.T, archive, programs string, names []string) {
	t.Helper()
	tree := t.TempDir()
	copyProgram(t, programs+"/slashrun", tree+"/slashrun")
	w.tag(t, w.Import(t, tree), "localhost/slashrun:latest")
	debian := false
	for _, name := range names {
		context := t.TempDir()
		if err := os.CopyFS(context, os.DirFS(filepath.Join(moduleRoot(t), "examples", name))); err != nil {
			t.Fatal(err)
		}
		switch {
		case name == "rails": // from scratch, with nothing but the program
			w.tag(t, w.Import(t, t.TempDir()), "localhost/ruby:3.3-slim")
			copyProgram(t, programs+"/rails", context+"/bin/rails")
		case !debian:
			w.ImportArchive(t, archive, "localhost/debian:bookworm-slim", map[string]string{"/usr/local/sbin/apt-get": aptGet})
			debian = true
		}
		w.Build(t, context, "localhost/example-"+name)
		w.checkImage(t, name)
	}
}

func (w *world) tag(t testing.TB, image, name string) {
	t.Helper()
	if r := w.Podman.Podman(t, "tag", image, name); r.Status != 0 {
		t.Fatal(r)
	}
}

func copyProgram(t testing.TB, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o755); err != nil {
		t.Fatal(err)
	}
}
