package nstest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/slashrun/slashrun/internal/rerun"
	"github.com/slashrun/slashrun/internal/testenv"
)

// MainInside is Main for a package of which every test is to run inside: it runs
// the whole package in one set of namespaces. Run then calls its function right
// away and ignores its options. It does not return.
func MainInside(m *testing.M, o Options) {
	Setup()
	if inside != nil {
		os.Exit(m.Run())
	}
	flag.Parse()
	os.Exit(mainOutside(m, o))
}

func mainOutside(m *testing.M, o Options) int {
	c := child{plan: plan{Stage: stageInit, Options: o, Whole: true}, stdout: os.Stdout, stderr: os.Stderr}
	if rerun.FlagValue("test.list") != "" {
		return m.Run()
	}
	if err := errors.Join(o.check(), c.packageArgs()); err != nil {
		fmt.Fprintf(os.Stderr, "nstest: %v\n", err)
		return 2
	}
	// Another kit may have started this process and wait for its report.
	if c.state = rerun.Load(); c.state.Report != "" {
		path, err := c.handDown(c.state.Report, os.O_WRONLY)
		if err != nil {
			fmt.Fprintf(os.Stderr, "nstest: %v\n", err)
			return 2
		}
		c.state.Report = path
	}
	status, reports, err := c.run(context.Background())
	for _, r := range reports {
		if r.Failure != "" {
			err = errors.New(r.Failure)
		}
		if r.Missing != "" {
			err = &missingError{r.Missing, errors.New(r.Why)}
		}
	}
	var missing *missingError
	switch {
	case errors.As(err, &missing) && !testenv.InCI():
		fmt.Printf("nstest: skipping every test of the package: needs %v\n", missing)
		return 0
	case err != nil:
		fmt.Fprintf(os.Stderr, "nstest: %v\n", err)
		return 1
	}
	return status
}

// packageArgs passes on the flags of this process, with the files that they name
// handed down as descriptors.
func (c *child) packageArgs() (err error) {
	flag.Visit(func(f *flag.Flag) {
		v := f.Value.String()
		switch f.Name {
		case "test.fuzz", "test.fuzzworker":
			if v != "" && v != "false" {
				err = errors.New("fuzz targets belong in a package that does not use MainInside")
			}
		case "test.coverprofile", "test.testlogfile", "test.cpuprofile", "test.memprofile", "test.blockprofile", "test.mutexprofile", "test.trace":
			if v != "" {
				if path, e := c.handDown(v, os.O_RDWR|os.O_CREATE|os.O_TRUNC); e != nil {
					err = errors.Join(err, e)
				} else {
					v = path
				}
			}
		case "test.gocoverdir", "test.outputdir":
			if v != "" {
				if path, e := c.handDown(v, os.O_RDONLY); e != nil {
					err = errors.Join(err, e)
				} else {
					v = path
				}
				if f.Name == "test.gocoverdir" {
					c.plan.CoverDir = v
				}
			}
		}
		c.args = append(c.args, "-"+f.Name+"="+v)
	})
	c.args = append(c.args, flag.Args()...)
	return err
}
