// Package tools pins the programs that "make test" builds, in a module of its
// own: none of what they need appears in the module of slashrun.
package tools
