package linux

import (
	"os"
	"path/filepath"
	"testing"
)

// The environment has no say in where we are, so nothing that it names is asked.
func TestGetcwd(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(".", link); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	t.Setenv("PWD", link)
	if got, err := os.Getwd(); err != nil || got != link {
		t.Fatalf("os.Getwd does not look at PWD any more: %q, %v", got, err)
	}
	if got, err := Getcwd(); err != nil || got != dir {
		t.Errorf("%q, %v, want %q", got, err, dir)
	}
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	gone := filepath.Join(dir, "gone")
	if err := os.Mkdir(gone, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(gone)
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	if got, err := Getcwd(); err == nil {
		t.Errorf("a directory that is gone is %q", got)
	}
}
