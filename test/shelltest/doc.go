// Package shelltest runs the scripts of examples/scripts with dash, BusyBox's sh and
// bash, against the real executable, and looks at what they did. With BusyBox they
// find nothing on PATH but slashrun and BusyBox's own programs, as on Alpine. It
// has tests alone.
package shelltest
