package locks

import (
	"os"
	"strings"
	"testing"

	"github.com/slashrun/slashrun/internal/process"
)

// hanging is a view that does not come back from one file, as a link in /proc does
// not where the process hangs in execve(2).
type hanging struct {
	oneFile
	forever chan struct{}
}

func (h hanging) worth(i process.Inode) bool {
	if h.oneFile.worth(i) {
		<-h.forever
	}
	return false
}

func (h hanging) fork() view { return h }

// A process that does not let us look is given up, and the others are looked at.
func TestAProcessThatHangs(t *testing.T) {
	_, f := files(t, "a")
	perl(t, "flock,"+f[0]+",2", "say")
	fd := openFile(t, f[0])
	p, err := process.Open()
	must(t, err)
	defer p.Close()
	st, err := os.Stat(f[0])
	must(t, err)
	dev, ino := inodeOf(st)
	h := hanging{oneFile{node{dev, ino}, func(*Lock) bool { return true }}, make(chan struct{})}
	defer close(h.forever)
	find := &finder{proc: p, view: h}
	must(t, find.processes(t.Context()))
	if said := strings.Join(find.why.lines(), "\n"); !strings.Contains(said, "no answer in") || !find.why.loose {
		t.Error(said)
	}
	if seen, known := find.looked[1]; !known || len(find.looked) < 3 {
		t.Errorf("only %d were looked at; the first: %v", len(find.looked), seen)
	}
	_ = fd
}
