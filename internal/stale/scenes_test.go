package stale

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/sockdiag"
)

// A scene is some objects in a container that was started again: what its previous
// run left, what this run made, and what other living containers and a process of
// the machine made on a volume that all share. Whoever makes an object says what
// is true of it. It is judged from inside, alone or with other processes alive,
// and from the machine, and what is found stale is removed.
//
// The one hard rule is that nothing which is used is ever called stale or removed.
// That everything stale on exclusive ground is proven is the other side: a judge
// that never can tell would not pass.

// truth is what a scene knows of an object.
type truth struct {
	path  string // as the container sees it
	place string
	maker string
	kind  Kind
	what  string
	used  bool // by somebody alive, by name or by descriptor
	must  bool // stale on exclusive ground, to be proven if the container is alone
}

// world is the makers.
type world struct {
	t      *testing.T
	rnd    *rand.Rand
	prev   *agent // the container's run before
	this   *agent // and now
	others map[string]*agent
	vol    string // the volume, as the machine sees it
	child  map[string]bool
	scene  int
	truths []truth
	counts map[string]int
}

var places = []string{"/srv", "/excl", "/made", "/vol"}

func TestThousandScenes(t *testing.T) {
	inside(t, func(t *testing.T) {
		seed, rounds, perRound := uint64(3), 50, 20
		if s, err := strconv.ParseUint(os.Getenv("SLASHRUN_SCENE_SEED"), 10, 64); err == nil {
			seed = s
		}
		if testing.Short() || seccomptest.Current() != seccomptest.None {
			rounds = 10 // what matters under a filter are the fallbacks
		}
		t.Logf("seed %d (set SLASHRUN_SCENE_SEED for another)", seed)
		w := &world{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), others: map[string]*agent{}, vol: t.TempDir(), child: map[string]bool{}, counts: map[string]int{}}
		excl, dir := t.TempDir(), layers(t)
		w.others["b"] = contain(t, box{Root: "overlay", Dir: layers(t), Binds: map[string]string{"/vol": w.vol}}, 0)
		w.others["b-net"] = contain(t, box{Root: "overlay", Dir: layers(t), Binds: map[string]string{"/vol": w.vol}}, syscall.CLONE_NEWNET)
		w.others["machine"] = start(t, syscall.CLONE_NEWNET)
		for _, b := range w.others {
			b.must(order{Do: "spawn"})
		}
		c := box{Root: "overlay", Dir: dir, Binds: map[string]string{"/vol": w.vol, "/excl": excl}, Tmpfs: []string{"/made"}}
		w.this = contain(t, c, 0)
		for range rounds {
			w.prev = w.this
			w.round(c, dir, perRound)
			if t.Failed() {
				return
			}
		}
		t.Logf("%d scenes: %v", w.scene, w.counts)
		for _, n := range []string{"proven on exclusive ground", "live", "cannot tell", "stale elsewhere", "removed"} {
			if w.counts[n] == 0 {
				t.Errorf("nothing was %q: the scenes are too poor", n)
			}
		}
	})
}

// round is one life of the container, with some scenes.
func (w *world) round(c box, dir string, scenes int) {
	w.truths = nil
	first := w.scene
	if w.rnd.IntN(2) == 0 {
		w.prev.must(order{Do: "spawn"})
		w.child["prev"] = true
	}
	for range scenes {
		w.scene++
		for _, p := range places {
			w.prev.must(order{Do: "mkdir", Path: w.dir(p)})
		}
		for range 1 + w.rnd.IntN(3) {
			w.object("prev", w.place("prev"))
		}
	}
	w.prev.kill()
	settle()
	more := uintptr(0)
	if w.rnd.IntN(4) == 0 {
		more = syscall.CLONE_NEWNET
	}
	w.this = contain(w.t, c, more)
	alone := w.rnd.IntN(4) > 0
	w.child["this"] = !alone
	if !alone {
		w.this.must(order{Do: "spawn"})
	}
	last := w.scene
	for w.scene = first + 1; w.scene <= last; w.scene++ {
		w.this.ask(order{Do: "mkdir", Path: w.dir("/made")})
		for range 1 + w.rnd.IntN(3) {
			maker := [...]string{"this", "b", "b-net", "machine"}[w.rnd.IntN(4)]
			w.object(maker, w.place(maker))
		}
	}
	w.scene = last
	w.judge(alone, dir)
	w.child["prev"] = false
	// The next run begins with an empty place; the scenes of before are over.
	for _, name := range []string{"b", "b-net", "machine"} {
		w.others[name].must(order{Do: "forget"})
	}
}

func (w *world) dir(place string) string { return fmt.Sprintf("%s/s%d", place, w.scene) }

func (w *world) place(maker string) string {
	switch maker {
	case "prev", "this":
		p := places[w.rnd.IntN(len(places))]
		if maker == "prev" && p == "/made" { // it went with its run
			return "/srv"
		}
		return p
	}
	return "/vol"
}

func (w *world) agent(maker string) *agent {
	switch maker {
	case "prev":
		return w.prev
	case "this":
		return w.this
	}
	return w.others[maker]
}

// for the agent of the machine the volume has another path.
func (w *world) seen(maker, path string) string {
	if maker == "machine" {
		return w.vol + strings.TrimPrefix(path, "/vol")
	}
	return path
}

// object makes one object and notes what is true of it.
func (w *world) object(maker, place string) {
	a := w.agent(maker)
	path := fmt.Sprintf("%s/o%d", w.dir(place), len(w.truths))
	tr := truth{path: path, place: place, maker: maker, used: maker != "prev", must: maker == "prev" && (place == "/srv" || place == "/excl")}
	path = w.seen(maker, path)
	switch w.rnd.IntN(6) {
	case 0, 1:
		w.socket(a, path, &tr)
	case 2, 3:
		w.pidFile(a, path, &tr)
	case 4:
		tr.kind, tr.what = FIFO, "fifo"
		a.must(order{Do: "mkfifo", Path: path})
		if w.rnd.IntN(2) == 0 {
			a.must(order{Do: "open", Path: path, Type: syscall.O_RDWR})
		}
	case 5:
		switch w.rnd.IntN(3) {
		case 0:
			tr.kind, tr.what = Directory, "directory"
			a.must(order{Do: "mkdir", Path: path})
		case 1:
			tr.kind, tr.what = Lock, "flock"
			a.must(order{Do: "flock", Path: path})
		case 2:
			tr.kind, tr.what = Lock, "ofd lock"
			a.must(order{Do: "write", Path: path, Text: [...]string{"", "{pid}\n", "4194000\n"}[w.rnd.IntN(3)]})
			a.must(order{Do: "ofd", Path: path})
		}
	}
	w.truths = append(w.truths, tr)
}

func (w *world) socket(a *agent, path string, tr *truth) {
	tr.kind = Socket
	typ := [...]int{syscall.SOCK_STREAM, syscall.SOCK_DGRAM, syscall.SOCK_SEQPACKET}[w.rnd.IntN(3)]
	a.must(order{Do: "bind", Path: path, Type: typ, Backlog: w.rnd.IntN(2)})
	switch w.rnd.IntN(7) {
	case 0:
		tr.what = "bound or listening"
	case 1:
		tr.what, tr.used = "orphan", false
		a.must(order{Do: "close", Path: path})
	case 2:
		tr.what = "in a queue"
		a.must(order{Do: "pass", Path: path})
	case 3:
		tr.what = "renamed"
		a.must(order{Do: "rename", Path: path, To: path + "x"})
		tr.path += "x"
	case 4:
		tr.what = "a second link"
		a.must(order{Do: "link", Path: path, To: path + "x"})
		// When one name goes, the inode changes; without a birth time it counts as
		// new then.
		tr.must = tr.must && !strings.HasPrefix(string(seccomptest.Current()), "old")
		also := *tr
		also.path += "x"
		w.truths = append(w.truths, also)
	case 5:
		tr.what = "replaced by a live one"
		a.must(order{Do: "close", Path: path})
		a.must(order{Do: "bind", Path: path + "x", Type: typ, Backlog: 1})
		a.must(order{Do: "rename", Path: path + "x", To: path})
	case 6:
		tr.what, tr.used = "orphan with the name of a live one", false
		a.must(order{Do: "bind", Path: path + "x", Type: typ, Backlog: 1})
		a.must(order{Do: "close", Path: path + "x"})
		a.must(order{Do: "rename", Path: path + "x", To: path})
	}
}

func (w *world) pidFile(a *agent, path string, tr *truth) {
	tr.kind = PIDFile
	texts := []string{"{pid}\n", "{record}", "", "soon\n"}
	if w.child[tr.maker] || tr.maker != "prev" && tr.maker != "this" {
		texts = append(texts, "{child}\n", " {child} \nmore\n", "{record-child}")
	}
	text := texts[w.rnd.IntN(len(texts))]
	if w.rnd.IntN(4) == 0 { // of nobody: the highest numbers are not given in a test
		text, tr.used = "4194000\n", false
	}
	tr.what = strconv.Quote(text)
	a.must(order{Do: "write", Path: path, Text: text})
	if w.rnd.IntN(5) == 0 {
		tr.what += ", locked"
		tr.used = tr.maker != "prev"
		a.must(order{Do: "flock", Path: path})
	}
}

// judge looks at every object, from the container and from the machine, and has
// the stale ones removed.
func (w *world) judge(alone bool, dir string) {
	p, err := process.Open()
	must(w.t, err)
	defer p.Close()
	host, err := New(context.Background(), Options{Proc: p})
	must(w.t, err)
	host.newborn = 0    // nobody is making one in that moment, and nothing hides behind it
	host.initial = true // all these processes are in sight, as there
	root := fmt.Sprintf("/proc/%d/root", w.this.cmd.Process.Pid)
	for _, tr := range w.truths {
		var before, after syscall.Stat_t
		must(w.t, syscall.Lstat(root+tr.path, &before))
		for _, from := range w.outside(tr, dir) {
			d, err := fsat.OpenDir(filepath.Dir(from))
			must(w.t, err)
			f, err := host.Look(context.Background(), d, filepath.Base(from), from, tr.kind)
			must(w.t, err)
			d.Close()
			w.check(tr, f, false)
		}
		o := order{Do: "look", Path: tr.path, Kind: tr.kind, Exclude: []string{"/excl"}, Made: "/made", Newborn: true}
		f := w.this.must(o).Finding
		w.check(tr, f, alone)
		if f.Verdict == Stale {
			switch err := w.this.remove(tr.path); {
			case err != nil:
				w.t.Errorf("removing: %v\n%+v", err, tr)
			case exists(root + tr.path):
				w.t.Errorf("%s was removed and is there\n%+v", tr.path, tr)
			default:
				w.counts["removed"]++
			}
			continue
		}
		if err := syscall.Lstat(root+tr.path, &after); err != nil || after.Ino != before.Ino {
			w.t.Errorf("%s was touched: %v\n%+v", tr.path, err, tr)
		}
	}
	for _, tr := range w.truths { // and nothing else went with it
		if !tr.used {
			continue
		}
		if !exists(root + tr.path) {
			w.t.Errorf("%s is gone\n%+v", tr.path, tr)
		} else if tr.kind == Socket {
			w.reachable(root+tr.path, tr)
		}
	}
}

// outside are the paths by which the machine sees the object.
func (w *world) outside(tr truth, dir string) []string {
	switch tr.place {
	case "/vol":
		return []string{w.seen("machine", tr.path)}
	case "/srv":
		return []string{dir + "/upper" + tr.path, fmt.Sprintf("/proc/%d/root%s", w.this.cmd.Process.Pid, tr.path)}
	}
	return nil
}

func (w *world) reachable(path string, tr truth) {
	d, err := fsat.OpenDir(filepath.Dir(path))
	must(w.t, err)
	defer d.Close()
	bound, err := sockdiag.ProbeAt(d.Fd(), filepath.Base(path))
	if err != nil || !bound {
		w.t.Errorf("%s was live and cannot be reached: %v\n%+v", path, err, tr)
	}
}

func (w *world) check(tr truth, f *Finding, alone bool) {
	switch {
	case f.Verdict == Stale && tr.used:
		w.t.Errorf("FALSE STALE: %s\nreally: %+v", f, tr)
	case f.Verdict == Live && !tr.used:
		w.t.Errorf("false live: %s\nreally: %+v", f, tr)
	case alone && tr.must && f.Verdict != Stale:
		w.t.Errorf("not proven on exclusive ground: %s\nreally: %+v", f, tr)
	case alone && tr.must:
		w.counts["proven on exclusive ground"]++
	case f.Verdict == Stale:
		w.counts["stale elsewhere"]++
	default:
		w.counts[f.Verdict.String()]++
	}
}
