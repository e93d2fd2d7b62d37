package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"virtmesh/agent/stewards/schedule/place"
	"virtmesh/raftstore"
)

func TestQuantileIsTheNearestRank(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i)
	}
	for _, tc := range []struct {
		values []float64
		q      float64
		want   float64
	}{
		{[]float64{7}, 0.5, 7},
		{[]float64{7}, 0.99, 7},
		{[]float64{3, 1, 2}, 0, 1},
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{3, 1, 2}, 1, 3},
		{hundred, 0.5, 50},
		{hundred, 0.95, 95},
		{hundred, 0.99, 99},
	} {
		if got := quantile(tc.values, tc.q); got != tc.want {
			t.Errorf("quantile of %d values at %v is %v, want %v", len(tc.values), tc.q, got, tc.want)
		}
	}
	if hundred[0] != 100 {
		t.Error("quantile changed its argument")
	}
	if got := quantile(nil, 0.5); !math.IsNaN(got) {
		t.Errorf("quantile of nothing is %v, want NaN", got)
	}
}

func TestParseCPU(t *testing.T) {
	// The name of a program may look like the rest.
	const stat = "42 (a) b) S 1 42 42 0 -1 4194560 1 0 0 0 120 34 7 8 20 0 9 0 100 200 300"
	if got, err := parseCPU(stat); err != nil || got != 1540*time.Millisecond {
		t.Errorf("parseCPU = %v, %v, want 1.54s", got, err)
	}
	for _, bad := range []string{"", "42 (a) S 1", "42 (a) S 1 42 42 0 -1 4194560 1 0 0 0 x 34"} {
		if _, err := parseCPU(bad); err == nil {
			t.Errorf("parseCPU(%q) returned no error", bad)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, tc := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{4}, 4},
		{[]float64{9, 1, 5}, 5},
		{[]float64{9, 1, 5, 6}, 5.5},
	} {
		if got := median(tc.values); got != tc.want {
			t.Errorf("median(%v) = %v, want %v", tc.values, got, tc.want)
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("median of nothing is %v, want NaN", got)
	}
}

// A round in which the machine was slow slows both down; the ratio within the
// round does not change, while that of the medians would.
func TestRatiosAreTakenWithinARound(t *testing.T) {
	ours, theirs := []float64{20, 2, 200}, []float64{10, 1, 50}
	if got := median(ratios(ours, theirs)); got != 2 {
		t.Errorf("median ratio is %v, want 2", got)
	}
}

func TestCollectRefusesALoadThatFails(t *testing.T) {
	good := worker{latencies: make([]float64, 999)}
	if _, err := collect([]worker{good, {failed: 1, last: io.EOF}}, 1); err != nil {
		t.Errorf("one failure in a thousand: %v", err)
	}
	if _, err := collect([]worker{good, {failed: 2, last: io.EOF}}, 1); err == nil {
		t.Error("two failures in a thousand are accepted")
	}
	if _, err := collect([]worker{{}}, 1); err == nil {
		t.Error("no operation at all is accepted")
	}
}

func TestReportJudgesBudgets(t *testing.T) {
	var out, summary bytes.Buffer
	r := &report{w: &out}
	r.add(figure{Name: "rate", Value: 12345.678, Unit: "ops/s", Beside: &beside{"other", 100}})
	r.add(figure{Name: "ratio", Value: 1.2, Unit: "ratio", Budget: atLeast(1.2)})
	r.add(figure{Name: "latency", Value: 301, Unit: "ms", Budget: atMost(300)})
	if got, want := out.String(), "rate 12350 ops/s\nratio 1.2 ratio\nlatency 301 ms\n"; got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
	r.summary(&summary)
	if got := summary.String(); !strings.Contains(got, "latency is 301 ms, wanted <= 300") || !strings.Contains(got, "1 of 2 budgets kept") {
		t.Errorf("summary is %q", got)
	}
	path := filepath.Join(t.TempDir(), "bench.json")
	if err := r.save(path); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var read []figure
	if err := json.Unmarshal(data, &read); err != nil {
		t.Fatal(err)
	}
	if len(read) != 3 || read[0].Met != nil || !*read[1].Met || *read[2].Met {
		t.Errorf("read back %s", data)
	}
}

// What is no number keeps no budget, and does not take the other figures along: JSON has no
// word for it.
func TestReportRefusesWhatIsNoNumber(t *testing.T) {
	r := &report{w: io.Discard}
	r.add(figure{Name: "infinite", Value: math.Inf(1), Budget: atLeast(1.5)})
	r.add(figure{Name: "none", Value: quantile(nil, 0.5), Budget: atMost(1)})
	r.add(figure{Name: "beside-none", Value: 1, Beside: &beside{"other", math.NaN()}})
	r.add(figure{Name: "good", Value: 1})
	if len(r.figures) != 1 || r.err() == nil || !strings.Contains(r.err().Error(), "infinite, none, beside-none") {
		t.Errorf("figures %+v, error %v", r.figures, r.err())
	}
	if err := r.save(filepath.Join(t.TempDir(), "bench.json")); err != nil {
		t.Error(err)
	}
}

// A figure is judged as it was measured, and printed rounded.
func TestBudgetsAreJudgedUnrounded(t *testing.T) {
	r := &report{w: io.Discard}
	r.add(figure{Name: "ratio", Value: 1.49996, Budget: atLeast(1.5)})
	r.add(figure{Name: "latency", Value: 300.04, Budget: atMost(300)})
	for _, f := range r.figures {
		if *f.Met {
			t.Errorf("%s misses its budget by little, and keeps it", f.Name)
		}
	}
}

// A power loss that happens to nobody would make the best of figures.
func TestNothingIsMeasuredWithoutACut(t *testing.T) {
	rs := &replicas{stores: make([]*raftstore.Store, 2), off: make([]atomic.Bool, 2), first: 9}
	if err := rs.cut(memberName(10)); err != nil || !rs.off[1].Load() {
		t.Errorf("its own replica: %v", err)
	}
	for _, node := range []string{"", memberName(3)} {
		if err := rs.cut(node); err == nil {
			t.Errorf("%q, which is not here, has lost its power", node)
		}
	}
	if _, err := rs.carryOut(t.Context(), replicasTask{}); err == nil {
		t.Error("a task of nothing was carried out")
	}
}

// Each placement of the mesh with all constraints obeys them: else it would be cheaper.
func TestAllConstraintsAreObeyed(t *testing.T) {
	s := busyMesh(50, 100) // one of them is on host0000 and of the namespace of the new ones
	zones, used := map[int]int{0: 1}, map[string]bool{hostName(0): true}
	for i := range 20 {
		vmi := smallInstance(fmt.Sprint("new", i), 100*i)
		constrain(&vmi.Spec)
		host, err := placeOn(s, vmi, place.DefaultPolicy())
		if err != nil {
			t.Fatal(err)
		}
		var number int
		if _, err := fmt.Sscanf(host, "host%d", &number); err != nil || number%2 != 0 || used[host] {
			t.Errorf("%s has no SSD, or such an instance already", host)
		}
		used[host] = true
		zones[number%5]++
	}
	for zone, n := range zones {
		if n < 4 || n > 5 {
			t.Errorf("%d of 21 are in zone %d", n, zone)
		}
	}
}

func TestNumbersHaveFourDigits(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.000123456: "0.0001235", 9.99996: "10", 123456: "123500", -1.23456: "-1.235"} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %s, want %s", v, got, want)
		}
	}
}

func TestFlags(t *testing.T) {
	o, err := parse([]string{"-only", "gossip,store", "-rounds", "5", "-seconds", "15", "-sizes", "3,100"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if o.rounds != 5 || o.seconds != 15 || !slices.Equal(o.sizes, sizes{3, 100}) {
		t.Errorf("parsed %+v", o)
	}
	list, err := chosen(o.only)
	if err != nil || len(list) != 2 || list[0].name != "store" || list[1].name != "gossip" {
		t.Errorf("chosen %v, %v", list, err)
	}
	for _, args := range [][]string{{"-only", "nothing"}, {"-rounds", "0"}, {"-seconds", "-1"}, {"-creates", "0"}, {"-sizes", "9,3"}, {"-sizes", "2"}, {"-sizes", ""}, {"extra"}, {"-nonsense"}} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}
