package flock

import (
	"errors"
	"math"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// Errors of ParseOffset and ParseSeconds.
var (
	errNoNumber = errors.New("it is no number")
	errTooLarge = errors.New("it is too large")
	// ErrNegative says that a time is negative, no number or longer than a clock
	// can count: flock(1) finds that out from its timer, after it has opened the
	// file.
	ErrNegative = errors.New("no clock can be set to that")
)

// ParseOffset reads a number of bytes: decimal, octal with 0 or hexadecimal with 0x
// in front, and the suffix K, M, G, T, P or E, or KiB and so on, for powers of 1024,
// KB and so on for powers of 1000, in letters of any case. With a suffix the number
// may have a fraction, "1.5K". What is beyond the largest offset of a file comes out
// negative, and the kernel refuses it.
func ParseOffset(s string) (int64, error) {
	s = strings.TrimLeft(s, " \t\n\v\f\r")
	s = strings.TrimPrefix(s, "+")
	whole, base := s, 10
	switch {
	case len(s) > 2 && (s[:2] == "0x" || s[:2] == "0X") && digit(s[2]) < 16:
		whole, base = s[2:], 16
	case len(s) > 1 && s[0] == '0' && digit(s[1]) < 10:
		base = 8
	}
	n := 0
	for n < len(whole) && digit(whole[n]) < base {
		n++
	}
	if n == 0 {
		return 0, errNoNumber
	}
	number, err := strconv.ParseUint(whole[:n], base, 64)
	if err != nil {
		return 0, errTooLarge
	}
	rest, fraction := whole[n:], ""
	point := strings.HasPrefix(rest, ".")
	if point {
		rest = rest[1:]
		n = 0
		for n < len(rest) && digit(rest[n]) < 10 {
			n++
		}
		fraction, rest = rest[:n], rest[n:]
	}
	if rest == "" {
		if point {
			return 0, errNoNumber
		}
		return int64(number), nil
	}
	unit, err := suffix(rest)
	if err != nil {
		return 0, err
	}
	if number > math.MaxUint64/unit {
		return 0, errTooLarge
	}
	number, more := number*unit, part(fraction, unit)
	if number > math.MaxUint64-more {
		return 0, errTooLarge
	}
	return int64(number + more), nil
}

// part is a decimal fraction of unit, what is below one cut off.
func part(fraction string, unit uint64) uint64 {
	if len(fraction) > 19 { // 10^19 is the largest power that an uint64 holds
		fraction = fraction[:19]
	}
	numerator, denominator := uint64(0), uint64(1)
	for i := range len(fraction) {
		numerator = numerator*10 + uint64(digit(fraction[i]))
		denominator *= 10
	}
	hi, lo := bits.Mul64(numerator, unit) // of which hi is less than denominator
	quotient, _ := bits.Div64(hi, lo, denominator)
	return quotient
}

// digit is the value of a digit of any base up to 16, and 16 for anything else.
func digit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return 16
}

// suffix is what K, KiB or KB and their like multiply by.
func suffix(s string) (uint64, error) {
	power := strings.IndexByte("KMGTPEZY", s[0]&^0x20)
	if power < 0 {
		return 0, errNoNumber
	}
	base := uint64(1024)
	switch strings.ToUpper(s[1:]) {
	case "", "IB":
	case "B":
		base = 1000
	default:
		return 0, errNoNumber
	}
	if power > 5 { // 2^70
		return 0, errTooLarge
	}
	unit := uint64(1)
	for range power + 1 {
		unit *= base
	}
	return unit, nil
}

// ParseSeconds reads a time in seconds, as strtod(3) reads a number. A time of less
// than a microsecond is none, and one that the Go clock cannot count is its longest,
// 292 years. ErrNegative is for numbers that are no time.
func ParseSeconds(s string) (time.Duration, error) {
	s = strings.TrimLeft(s, " \t\n\v\f\r")
	text := strings.ToLower(s)
	if body := strings.TrimLeft(text, "+-"); strings.HasPrefix(body, "0x") && !strings.Contains(body, "p") {
		text += "p0" // which Go wants and C does not
	}
	if strings.Contains(text, "_") {
		return 0, errNoNumber
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, errNoNumber
	}
	switch {
	case math.IsNaN(v), v >= 1<<63, v <= -1e-6:
		return 0, ErrNegative
	case v > math.MaxInt64/1e9:
		return math.MaxInt64, nil
	}
	// The microseconds are cut, as a struct timeval has them.
	return time.Duration(v*1e6) * time.Microsecond, nil
}
