// Package insidetest holds the tests of nstest.MainInside, which takes a whole
// package. There is nothing in it to import.
package insidetest
