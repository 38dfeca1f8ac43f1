package locks

import "github.com/slashrun/slashrun/internal/process"

// Read is /proc/locks alone, without who waits: the locks that are held and that
// want takes, each with the process that took it, which may be dead (see the package
// documentation). It costs two reads where no lock comes or goes. incomplete says why
// some may be missing, "" if none is.
func Read(p *process.Proc, want func(*Lock) bool) (held []Lock, incomplete string, err error) {
	t, err := readLocks(p, want)
	if err != nil {
		return nil, "", err
	}
	for i := range t.records {
		held = append(held, t.records[i].held)
	}
	switch {
	case t.unknown != nil:
		incomplete = t.unknown.Error()
	case t.torn:
		incomplete = "locks come and go faster than /proc/locks can be read"
	}
	return held, incomplete, nil
}
