module github.com/slashrun/slashrun

go 1.26.0

require (
)
