package runfs

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/process"
)

var run = process.Identity{BootID: "4cf42e22-fe34-485a-af44-da9609ca8cc5", InitStart: 7, Offset: 9}

// adoptable is a tmpfs as slashrun leaves it.
func adoptable() *State {
	w := Default(1<<30, Debian)
	return &State{
		Path: "/run", Kind: Tmpfs, FSType: "tmpfs", Whole: true, CanMount: true, Mode: 0o755, Run: run,
		Size: w.Size.Value, Inodes: w.Inodes.Value, Attr: w.attr(), Stamp: &Stamp{Identity: run},
		Inner: map[string]Inner{
			"lock": {Mounted: true, Mode: 0o1777}, "slashrun": {Mounted: true, Mode: 0o755}, "user": {Mode: 0o755, Empty: true},
		},
	}
}

func TestPlans(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(s *State, w *Wanted)
		steps  []string
		notes  []string // parts; a leading ! means kept
	}{
		{"as wanted", func(s *State, w *Wanted) {}, nil, nil},
		{"larger", func(s *State, w *Wanted) { s.Size, s.Inodes = 1<<40, 0 },
			[]string{"set size=214745088,nr_inodes=819200 on /run"}, nil},
		{"smaller and tighter", func(s *State, w *Wanted) { s.Size, s.Inodes = 4096, 5; s.Attr |= linux.MountAttrNoExec }, nil, nil},
		{"smaller than asked for", func(s *State, w *Wanted) { s.Size = 4096; w.Size.Exact = true },
			[]string{"set size=214745088 on /run"}, nil},
		{"no limit rights", func(s *State, w *Wanted) { s.Size = 0; s.CanMount = false }, nil, []string{"!needs CAP_SYS_ADMIN"}},
		{"somebody else's file system", func(s *State, w *Wanted) { s.Size = 0; s.Whole = false }, nil, []string{"!others use too"}},
		{"huge", func(s *State, w *Wanted) { s.Huge = "always" }, []string{"set huge=never on /run"}, nil},
		{"noexec asked for", func(s *State, w *Wanted) { w.NoExec = true }, []string{"set noexec on the mount /run"}, nil},
		{"noswap too late", func(s *State, w *Wanted) { w.NoSwap = true }, nil, []string{"!noswap cannot be given"}},
		{"read-only", func(s *State, w *Wanted) { s.Attr |= linux.MountAttrReadOnly; s.Size = 0 }, nil, []string{"!read-only"}},
		{"ramfs", func(s *State, w *Wanted) { s.Kind = Ramfs; s.Size = 0 }, nil, []string{"!no limits"}},
		{"docker's mode", func(s *State, w *Wanted) { s.Mode = 0o1777 }, []string{"give /run to root, mode 0755"}, nil},
		{"locks in a plain directory", func(s *State, w *Wanted) { s.Inner["lock"] = Inner{Mode: 0o1777} },
			nil, []string{"!would hide what is in it"}},
		{"an empty plain lock directory", func(s *State, w *Wanted) { s.Inner["lock"] = Inner{Mode: 0o755, Empty: true} },
			[]string{"give /run/lock to root, mode 1777", "mount a tmpfs on /run/lock"}, nil},
		{"a container's", func(s *State, w *Wanted) {
			w.Container, s.Mode, s.Size, s.Attr, s.Huge = true, 0o1777, 1<<40, 0, "always"
			s.Inner["lock"] = Inner{Mode: 0o700, UID: 5, Empty: true}
			delete(s.Inner, "user")
		}, []string{"make the directory /run/user, mode 0755"}, nil},
		{"a container's with a size", func(s *State, w *Wanted) { w.Container, s.Size, w.Size.Exact = true, 1<<40, true },
			[]string{"set size=214745088 on /run"}, nil},
		{"a container's, of an earlier run", func(s *State, w *Wanted) {
			*s = State{Path: "/run", Kind: Directory, CanMount: true, Run: run, Use: Use{Entries: 3, Names: []string{"a"}}}
			w.Container = true
		}, []string{"mount a tmpfs on /run (nosuid,nodev,mode=0755,size=214745088,nr_inodes=819200,huge=never)"}, nil},
		{"a file for a directory", func(s *State, w *Wanted) { s.Inner["user"] = Inner{NotDir: true} }, nil, []string{"!not a directory"}},
		{"another boot", func(s *State, w *Wanted) { s.Stamp.BootID = "x" },
			[]string{"write /run/slashrun/boot"}, []string{"another boot"}},
		{"the clock was set", func(s *State, w *Wanted) { s.Run.Offset += 3600e9 }, nil, []string{"set by 3600 s"}},
		{"left by a killed run", func(s *State, w *Wanted) { s.Staging = []string{"dev"} },
			[]string{"remove /dev/.slashrun.new, left by a run that was killed"}, nil},
		{"no right to mount a new one", func(s *State, w *Wanted) {
			*s = State{Path: "/run", Kind: Directory, Mode: 0o755, Run: run, Inner: s.Inner, Stamp: s.Stamp}
		}, nil, []string{"!plain directory"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, w := adoptable(), Default(1<<30, Debian)
			c.change(s, &w)
			p, err := MakePlan(s, w)
			if err != nil {
				t.Fatal(err)
			}
			if len(p.Steps) != len(c.steps) {
				t.Fatalf("steps %v, want %v", p.Steps, c.steps)
			}
			for i, want := range c.steps {
				if !strings.HasPrefix(p.Steps[i].String(), want) {
					t.Errorf("step %d is %q, want %q", i, p.Steps[i], want)
				}
			}
			if len(p.Notes) != len(c.notes) {
				t.Fatalf("notes %v, want %v", p.Notes, c.notes)
			}
			for i, want := range c.notes {
				text, kept := strings.CutPrefix(want, "!")
				if !strings.Contains(p.Notes[i].Text, text) || p.Notes[i].Kept != kept {
					t.Errorf("note %d is %+v, want %q", i, p.Notes[i], want)
				}
			}
		})
	}
}

// The table of the package documentation.
func TestOccupied(t *testing.T) {
	other := []process.Process{{PID: 5, Comm: "d"}}
	for _, c := range []struct {
		name    string
		use     Use
		refused bool
	}{
		{"empty", Use{}, false},
		{"empty, others", Use{Others: other}, false},
		{"empty, cannot tell", Use{Incomplete: []string{"x"}}, true},
		{"entries", Use{Entries: 1, Names: []string{"a"}}, false},
		{"entries, others", Use{Entries: 1, Names: []string{"a"}, Others: other}, true},
		{"entries, cannot tell", Use{Entries: 1, Incomplete: []string{"x"}}, true},
		{"held", Use{Holders: []process.Holder{{Process: other[0], How: "cwd", Path: "/run"}}}, true},
		{"bound", Use{Entries: 1, LiveSockets: []string{"s"}}, true},
	} {
		s := &State{Path: "/run", Kind: Directory, CanMount: true, Run: run, Use: c.use}
		p, err := MakePlan(s, Default(1<<30, Plain))
		var occupied *OccupiedError
		if errors.As(err, &occupied) != c.refused || (p == nil) != c.refused {
			t.Errorf("%s: %v, %v", c.name, p, err)
		}
	}
	if _, err := MakePlan(&State{Path: "/run", Kind: Foreign, FSType: "ext4", CanMount: true}, Default(1<<30, Plain)); err == nil {
		t.Error("a foreign file system was taken")
	}
}

func TestSizes(t *testing.T) {
	for _, c := range []struct{ memory, want uint64 }{{64 << 20, 13418496}, {100, 4096}, {0, 4096}} {
		if got := Percent(c.memory, 20); got != c.want {
			t.Errorf("20%% of %d is %d, want %d", c.memory, got, c.want)
		}
	}
}

func TestStampReadsWhatItWrites(t *testing.T) {
	for _, s := range []Stamp{{Identity: run}, {Identity: process.Identity{BootID: "b", Offset: -1}, Survived: "x:1"}} {
		got, err := ReadStamp(strings.NewReader(s.Text() + "later=1\n"))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(s, got); d != "" {
			t.Error(d)
		}
	}
	good := Stamp{Identity: run}.Text()
	for _, bad := range []string{"", "boot_id=x\n", good + "boot_id=y\n", strings.Replace(good, "=7", "=-7", 1), strings.Replace(good, "=9", "=9 ", 1), "\x00"} {
		if _, err := ReadStamp(strings.NewReader(bad)); !errors.Is(err, ErrStamp) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzReadStamp(f *testing.F) {
	f.Add([]byte(Stamp{Identity: run, Survived: "a:1"}.Text()))
	f.Add([]byte("boot_id=\n=\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ReadStamp(strings.NewReader(string(b)))
		if err != nil {
			if !errors.Is(err, ErrStamp) || s != (Stamp{}) {
				t.Errorf("%+v, %v", s, err)
			}
			return
		}
		again, err := ReadStamp(strings.NewReader(s.Text()))
		if err != nil || again != s {
			t.Errorf("%+v became %+v, %v", s, again, err)
		}
	})
}

func TestLabels(t *testing.T) {
	if l := labelsFor("kernel"); l != (Labels{}) {
		t.Errorf("before a policy is loaded: %+v", l)
	}
	if l := labelsFor("system_u:system_r:init_t:s0"); l.Run != "system_u:object_r:var_run_t:s0" || l.Lock != "system_u:object_r:var_lock_t:s0" {
		t.Errorf("with levels: %+v", l)
	}
	if l := labelsFor("u:r:t"); l.Run != "system_u:object_r:var_run_t" {
		t.Errorf("without levels: %+v", l)
	}
	s := adoptable()
	s.Kind, s.Labels = Missing, labelsFor("u:r:t")
	p, err := MakePlan(s, Default(1<<30, Plain))
	if err != nil || !strings.Contains(p.Steps[1].Options, "rootcontext=system_u:object_r:var_run_t") {
		t.Errorf("%v %v", p, err)
	}
}
