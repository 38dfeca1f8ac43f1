package fuser

import (
	"context"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/testenv"
)

// crowd is 200 processes with 20 descriptors, of which one is of the file.
func crowd(b *testing.B) (dir string, p *process.Proc, opts Options) {
	b.Helper()
	dir = b.TempDir()
	must(b, os.WriteFile(dir+"/file", nil, 0o644))
	must(b, os.WriteFile(dir+"/other", nil, 0o644))
	var files []*os.File
	for i := range 17 {
		f, err := os.Open(dir + "/" + []string{"other", "file"}[i/16])
		must(b, err)
		b.Cleanup(func() { f.Close() })
		files = append(files, f)
	}
	for range 200 {
		cmd := exec.CommandContext(b.Context(), "sleep", "1000")
		cmd.ExtraFiles = files
		must(b, cmd.Start())
		b.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	}
	p, err := process.Open()
	must(b, err)
	b.Cleanup(p.Close)
	fd, err := linux.Openat(linux.AT_FDCWD, dir+"/file", linux.O_PATH, 0)
	must(b, err)
	o, err := Identify(p, fd)
	must(b, err)
	syscall.Close(fd)
	return dir, p, Options{Objects: []Object{o}, Sockets: true}
}

// BenchmarkScan is one look at 200 processes for one file, and BenchmarkFuser the
// same question put to fuser(1) and lsof(8), start of the program included.
func BenchmarkScan(b *testing.B) {
	_, p, opts := crowd(b)
	b.ReportAllocs()
	b.ResetTimer()
	defer processor(b, syscall.RUSAGE_SELF)()
	for b.Loop() {
		x, err := Scan(context.Background(), p, opts)
		if err != nil || len(x.Of(opts.Objects[0].ID)) < 200 {
			b.Fatal(err, len(x.Of(opts.Objects[0].ID)))
		}
	}
}

func BenchmarkFuser(b *testing.B) { peer(b, "fuser") }
func BenchmarkLsof(b *testing.B)  { peer(b, "lsof", "-nP", "-w") }

func peer(b *testing.B, name string, args ...string) {
	testenv.Need(b, testenv.Tool(name))
	dir, _, _ := crowd(b)
	b.ResetTimer()
	defer processor(b, syscall.RUSAGE_CHILDREN)()
	for b.Loop() {
		if out, err := exec.CommandContext(b.Context(), name, append(args, dir+"/file")...).Output(); err != nil || len(out) < 200 {
			b.Fatal(err, len(out))
		}
	}
}

// processor reports the time of processors, which other programs of the machine do
// not change much.
func processor(b *testing.B, who int) func() {
	used := func() int64 {
		var u syscall.Rusage
		must(b, syscall.Getrusage(who, &u))
		return u.Utime.Nano() + u.Stime.Nano()
	}
	before := used()
	return func() { b.ReportMetric(float64(used()-before)/float64(b.N), "cpu-ns/op") }
}
