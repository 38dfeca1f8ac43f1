package tmpfiles

import (
	"testing"

	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/seccomptest"
)

func TestMain(m *testing.M) {
	seccomptest.Setup()
	nstest.Main(m)
}
