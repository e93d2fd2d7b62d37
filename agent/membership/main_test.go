package membership

import (
	"flag"
	"os"
	"runtime"
	"strconv"
	"testing"
)

// testsPerProcessor is how many tests share a processor: those of whole hosts wait for elections,
// gossip and pauses most of the time.
const testsPerProcessor = 2

// TestMain runs that many tests at a time, unless -parallel says how many. Each test begins with
// t.Parallel, and has ports and directories of its own.
func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		if err := flag.Set("test.parallel", strconv.Itoa(testsPerProcessor*runtime.GOMAXPROCS(0))); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
