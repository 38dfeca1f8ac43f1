package condition

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/testenv"
)

func mkdirs(t testing.TB, path string) {
	t.Helper()
	must(t, os.MkdirAll(path, 0o755))
}

// What stands at a path that is waited for, and how it comes.
func TestPath(t *testing.T) {
	for name, scene := range map[string]struct {
		before, after func(t *testing.T, d string)
		want          string // path: or gone:, and the path
		why           string // before
	}{
		"a file": {
			after: func(t *testing.T, d string) { must(t, os.WriteFile(d+"/f", nil, 0o644)) },
			want:  "path:D/f", why: "there is no D/f",
		},
		"parents that are missing": {
			after: func(t *testing.T, d string) { mkdirs(t, d+"/a/b/c") },
			want:  "path:D/a/b/c", why: "no such directory: D/a",
		},
		"moved in": {
			before: func(t *testing.T, d string) { mkdirs(t, d+"/old/b") },
			after:  func(t *testing.T, d string) { must(t, os.Rename(d+"/old", d+"/a")) },
			want:   "path:D/a/b", why: "no such directory: D/a",
		},
		"a directory above is replaced": {
			before: func(t *testing.T, d string) { mkdirs(t, d+"/a/b"); mkdirs(t, d+"/new/b/c") },
			after: func(t *testing.T, d string) {
				must(t, os.Rename(d+"/a", d+"/old"))
				must(t, os.Rename(d+"/new", d+"/a"))
			},
			want: "path:D/a/b/c", why: "there is no D/a/b/c",
		},
		"the directory is removed and made again": {
			before: func(t *testing.T, d string) { mkdirs(t, d+"/a") },
			after:  func(t *testing.T, d string) { must(t, os.Remove(d+"/a")); mkdirs(t, d+"/a/b") },
			want:   "path:D/a/b", why: "there is no D/a/b",
		},
		"a link's target": {
			before: func(t *testing.T, d string) { must(t, os.Symlink("real/x", d+"/link")) },
			after:  func(t *testing.T, d string) { mkdirs(t, d+"/real/x") },
			want:   "path:D/link", why: "the link D/link leads to D/real, which is not there",
		},
		"a link on the way is exchanged": {
			before: func(t *testing.T, d string) {
				mkdirs(t, d+"/one")
				mkdirs(t, d+"/two/x")
				must(t, os.Symlink("one", d+"/cur"))
				must(t, os.Symlink(d+"/two", d+"/next"))
			},
			after: func(t *testing.T, d string) { must(t, os.Rename(d+"/next", d+"/cur")) },
			want:  "path:D/cur/x",
		},
		"a file in a directory's place": {
			before: func(t *testing.T, d string) { must(t, os.WriteFile(d+"/a", nil, 0o644)) },
			after:  func(t *testing.T, d string) { must(t, os.Remove(d+"/a")); mkdirs(t, d+"/a/b") },
			want:   "path:D/a/b", why: "D/a is no directory",
		},
		"a slash at the end": {
			before: func(t *testing.T, d string) { must(t, os.WriteFile(d+"/a", nil, 0o644)) },
			after:  func(t *testing.T, d string) { must(t, os.Remove(d+"/a")); mkdirs(t, d+"/a") },
			want:   "path:D/a/", why: "D/a is no directory",
		},
		"dots": {
			before: func(t *testing.T, d string) { mkdirs(t, d+"/a/b") },
			after:  func(t *testing.T, d string) { mkdirs(t, d+"/c") },
			want:   "path:D/./a/b/../../c",
		},
		"links in a circle": {
			before: func(t *testing.T, d string) { must(t, os.Symlink("l", d+"/l")) },
			after:  func(t *testing.T, d string) { must(t, os.Remove(d+"/l")); mkdirs(t, d+"/l") },
			want:   "path:D/l", why: "too many levels of symbolic links on the way to D/l",
		},
		"gone": {
			before: func(t *testing.T, d string) { must(t, os.WriteFile(d+"/f", nil, 0o644)) },
			after:  func(t *testing.T, d string) { must(t, os.Remove(d+"/f")) },
			want:   "gone:D/f", why: "D/f is still there",
		},
		"gone with a directory above": {
			before: func(t *testing.T, d string) { mkdirs(t, d+"/a/b/c") },
			after:  func(t *testing.T, d string) { must(t, os.Rename(d+"/a", d+"/x")) },
			want:   "gone:D/a/b/c",
		},
		"a dangling link is not gone": {
			before: func(t *testing.T, d string) { must(t, os.Symlink("host:17", d+"/lock")) },
			after:  func(t *testing.T, d string) { must(t, os.Remove(d+"/lock")) },
			want:   "gone:D/lock", why: "D/lock is still there",
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := t.TempDir()
			if scene.before != nil {
				scene.before(t, d)
			}
			want := strings.ReplaceAll(scene.want, "D", d)
			if got := once(t, Options{}, want); got.Holds || scene.why != "" && got.Why != strings.ReplaceAll(scene.why, "D", d) {
				t.Errorf("before: %+v", got)
			}
			r := begin(t, forever(Options{}), want)
			r.idle()
			scene.after(t, d)
			if got := r.holds().Conditions[0]; got.Polled != "" || got.Looks > 200 { // the machine's mounts and /tmp are everybody's
				t.Errorf("%+v", got)
			}
			if got := once(t, Options{}, want); !got.Holds {
				t.Errorf("after: %+v", got)
			}
		})
	}
}

// What comes between the watch of a directory and the look into it is found, by the
// look or by the event; what goes there, too.
func TestPathRace(t *testing.T) {
	for _, p := range seccomptest.All {
		t.Run(p.String(), func(t *testing.T) {
			seccomptest.Run(t, p, func(t *testing.T) {
				for i, at := range []string{"a", "a/b", "a/b/c", "a", "a/b", "a/b/c"} {
					// A directory is watched twice if the entry is not there: for its going,
					// and then for its coming.
					nth := 1 + i/3
					d := t.TempDir()
					seen := 0
					o := Options{watched: func(path string) {
						if path == d+"/"+at {
							if seen++; seen == nth {
								mkdirs(t, d+"/a/b/c")
							}
						}
					}}
					if at != "a" {
						mkdirs(t, filepath.Dir(d+"/"+at))
					}
					begin(t, forever(o), "path:"+d+"/a/b/c").holds()
					if seen < nth {
						t.Errorf("%s was watched %d times", at, seen)
					}

					// The directory is exchanged under the look: what it sees is the old
					// one, and the event of the exchange is already there.
					d = t.TempDir()
					mkdirs(t, d+"/a/b")
					mkdirs(t, d+"/n/b/c")
					var swap sync.Once
					o.watched = func(path string) {
						if path == d+"/a/b/c" {
							swap.Do(func() {
								must(t, os.Rename(d+"/a", d+"/old"))
								must(t, os.Rename(d+"/n", d+"/a"))
							})
						}
					}
					begin(t, forever(o), "path:"+d+"/a/b/c").holds()
				}
			})
		})
	}
}

// Mounts make no events in the directories: the mount table tells.
func TestMounts(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		mkdirs(t, "/run/m/deep")
		r := begin(t, forever(Options{}), "path:/run/m/x")
		r.idle()
		mkdirs(t, "/run/src/x")
		must(t, syscall.Mount("/run/src", "/run/m", "", syscall.MS_BIND, "")) // over it
		r.holds()

		r = begin(t, forever(Options{}), "gone:/run/m/x")
		r.idle()
		must(t, syscall.Unmount("/run/m", 0)) // which a held descriptor would make EBUSY
		r.holds()

		must(t, syscall.Mount("none", "/run/m", "tmpfs", 0, ""))
		mkdirs(t, "/run/m/deep/deeper")
		r = begin(t, forever(Options{}), "path:/run/m/deep/deeper/x", "gone:/run/m/deep/deeper")
		r.idle()
		must(t, syscall.Unmount("/run/m", 0))
		r.idle()
		mkdirs(t, "/run/m/deep/deeper/x")
		r.idle()
		must(t, os.Remove("/run/m/deep/deeper/x"))
		r.idle()
		r.cancel()
	})
}

// The kernel's queue of events overflows while the loop is kept from reading it,
// and the one event that matters is among those that are lost.
func TestQueueOverflow(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		var flood sync.Once
		lost := false
		o := forever(Options{asleep: func(ns int64) {
			if ns != -1 {
				return
			}
			flood.Do(func() {
				text, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
				must(t, err)
				var most int
				fmt.Sscan(string(text), &most)
				must(t, os.WriteFile("/run/0", nil, 0o644))
				for i := 0; i <= most; i += 2 { // two events each
					must(t, os.Rename(fmt.Sprintf("/run/%d", i%4), fmt.Sprintf("/run/%d", (i+2)%4)))
				}
				mkdirs(t, "/run/x")
				lost = true
			})
		}})
		begin(t, o, "path:/run/x").holds()
		if !lost {
			t.Error("it never slept")
		}
	})
}

// A directory that may not be read cannot be watched, and one that may not be
// searched hides what is in it.
func TestNoPermission(t *testing.T) {
	testenv.Need(t, testenv.NonRoot)
	d := t.TempDir()
	mkdirs(t, d+"/shut/x")
	must(t, os.Chmod(d+"/shut", 0o600))
	t.Cleanup(func() { os.Chmod(d+"/shut", 0o700) })
	got := once(t, Options{}, "path:"+d+"/shut/x")
	if got.Holds || got.Why != "no permission to look into "+d+"/shut" {
		t.Errorf("%+v", got)
	}
	if got := once(t, Options{}, "gone:"+d+"/shut/x"); got.Holds {
		t.Errorf("gone for who may not look: %+v", got)
	}
	r := begin(t, forever(Options{}), "path:"+d+"/shut/x")
	r.idle()
	must(t, os.Chmod(d+"/shut", 0o700))
	r.holds()

	must(t, os.Chmod(d+"/shut", 0o300))
	r = begin(t, forever(Options{}), "path:"+d+"/shut/y")
	r.polls(3)
	mkdirs(t, d+"/shut/y")
	if got := r.holds().Conditions[0]; !strings.Contains(got.Polled, "/shut cannot be watched: ") {
		t.Errorf("%+v", got)
	}
}

// procfs tells of nothing, so it is looked at every so often.
func TestPolledFileSystem(t *testing.T) {
	got := once(t, Options{}, "gone:/proc/self/fd/9999")
	if !got.Holds || !strings.Contains(got.Polled, "on a proc") {
		t.Errorf("%+v", got)
	}
	if got := once(t, Options{}, "path:/proc/self/fd/1/"); got.Holds {
		t.Errorf("%+v", got)
	}
	if got := once(t, Options{}, "path:/proc/self/fd/0"); !got.Holds {
		t.Errorf("%+v", got)
	}
}

// Without /proc nothing tells of mounts, and of file systems.
func TestNoProc(t *testing.T) {
	testenv.Need(t, testenv.Root)
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		must(t, syscall.Mount("none", "/proc", "tmpfs", 0, ""))
		defer syscall.Unmount("/proc", syscall.MNT_DETACH)
		var notes []string
		r := begin(t, forever(Options{Note: func(s string) { notes = append(notes, s) }}), "path:/run/a/b")
		r.polls(3)
		mkdirs(t, "/run/a/b")
		if got := r.holds().Conditions[0]; got.Polled == "" {
			t.Errorf("%+v", got)
		}
		if len(notes) != 1 || !strings.Contains(notes[0], "mounts cannot be watched") {
			t.Errorf("notes %q", notes)
		}
	})
}
