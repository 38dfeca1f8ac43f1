package linux

import (
	"bufio"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// DropFilePages gives back the memory of this process that holds read-only parts of
// its executable: madvise(2) MADV_DONTNEED. What is needed again is read again,
// usually from the page cache. It needs /proc.
func DropFilePages() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer f.Close()
	type span struct{ from, to uint64 }
	var spans []span
	lines := bufio.NewScanner(f)
	for lines.Scan() { // "00400000-005d0000 r-xp 00000000 fe:00 10019924    /usr/bin/slashrun"
		p := strings.Fields(lines.Text())
		if len(p) != 6 || p[5] != exe || strings.Contains(p[1], "w") || !strings.HasSuffix(p[1], "p") {
			continue
		}
		from, to, _ := strings.Cut(p[0], "-")
		a, err1 := strconv.ParseUint(from, 16, 64)
		b, err2 := strconv.ParseUint(to, 16, 64)
		if err1 == nil && err2 == nil && a < b {
			spans = append(spans, span{a, b})
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	for _, s := range spans {
		if _, _, e := unix.RawSyscall(unix.SYS_MADVISE, uintptr(s.from), uintptr(s.to-s.from), unix.MADV_DONTNEED); e != 0 {
			return wrapErrno("madvise", e)
		}
	}
	return nil
}
