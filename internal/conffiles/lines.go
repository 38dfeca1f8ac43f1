package conffiles

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// MaxLine is the length that a line must stay below, in bytes without its end.
const MaxLine = 1 << 20

// ErrLineTooLong is in the error of Lines for a line of MaxLine bytes or more.
var ErrLineTooLong = errors.New("line too long")

// Lines cuts a file into lines. A line ends at a newline, a carriage return, a
// NUL byte, or the end of the file. Different ends in a row are one end ("\r\n",
// "\n\r", "\r\n\0"), the same twice are two, and nothing is added to a NUL.
// (Found by running systemd-tmpfiles, whose line numbers count this way.)
//
// A Lines is for one goroutine.
type Lines struct {
	r      *bufio.Reader
	long   []byte
	number int
}

// NewLines returns a Lines that reads from r.
func NewLines(r io.Reader) *Lines {
	return &Lines{r: bufio.NewReaderSize(r, 16<<10)}
}

// Reset makes l read from r, from line 1. It keeps the buffers: one Lines does
// for many files.
func (l *Lines) Reset(r io.Reader) {
	l.r.Reset(r)
	l.number = 0
}

// Number returns the number of the line that Next returned last, from 1.
func (l *Lines) Number() int { return l.number }

// Next returns the next line without its end. The bytes are valid until the next
// call. At the end of the file the error is io.EOF, and there is no line.
func (l *Lines) Next() ([]byte, error) {
	l.long = l.long[:0]
	for {
		buf, err := l.fill()
		if i := bytes.IndexAny(buf, "\n\r\x00"); i >= 0 {
			return l.finish(buf, i)
		}
		if len(l.long)+len(buf) >= MaxLine {
			return nil, fmt.Errorf("line %d: %w (%d bytes or more)", l.number+1, ErrLineTooLong, MaxLine)
		}
		l.long = append(l.long, buf...)
		l.r.Discard(len(buf))
		if err == nil {
			continue
		}
		if err == io.EOF && len(l.long) > 0 {
			l.number++
			return l.long, nil
		}
		return nil, err
	}
}

// fill returns what is in the buffer, at least a byte unless there is an error.
func (l *Lines) fill() ([]byte, error) {
	_, err := l.r.Peek(1)
	if err != nil {
		return nil, err
	}
	buf, _ := l.r.Peek(l.r.Buffered())
	return buf, nil
}

// finish returns the line that ends at buf[i].
func (l *Lines) finish(buf []byte, i int) ([]byte, error) {
	line, end := buf[:i], buf[i]
	if len(l.long) > 0 {
		l.long = append(l.long, line...)
		line = l.long
	}
	if len(line) >= MaxLine {
		return nil, fmt.Errorf("line %d: %w (%d bytes or more)", l.number+1, ErrLineTooLong, MaxLine)
	}
	l.number++
	if i+2 >= len(buf) && end != 0 {
		// The rest of the end may not be in the buffer, and reading it moves
		// what is.
		l.long = append(l.long[:0], line...)
		line = l.long
	}
	l.r.Discard(i + 1)
	seen := endBit(end)
	for seen&endNUL == 0 {
		next, err := l.r.Peek(1)
		if err != nil || endBit(next[0]) == 0 || seen&endBit(next[0]) != 0 {
			break
		}
		seen |= endBit(next[0])
		l.r.Discard(1)
	}
	return line, nil
}

const endNUL = 4

func endBit(b byte) int {
	switch b {
	case '\n':
		return 1
	case '\r':
		return 2
	case 0:
		return endNUL
	}
	return 0
}
