package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
)

// figure is one thing measured.
type figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Beside is what the same took or gave with what it is compared with.
	Beside *beside `json:"beside,omitempty"`
	// Budget is the bound to keep, Met whether it was; null without a bound.
	Budget *bound `json:"budget,omitempty"`
	Met    *bool  `json:"met"`
}

// beside is the figure of what virtmesh is compared with.
type beside struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
}

// bound is a limit that a figure should keep.
type bound struct {
	// Is is "<=" or ">=".
	Is    string  `json:"is"`
	Value float64 `json:"value"`
}

func atMost(v float64) *bound  { return &bound{Is: "<=", Value: v} }
func atLeast(v float64) *bound { return &bound{Is: ">=", Value: v} }

func (b bound) keeps(v float64) bool {
	if b.Is == ">=" {
		return v >= b.Value
	}
	return v <= b.Value
}

// String returns the bound as a reader writes it.
func (b bound) String() string { return b.Is + " " + number(b.Value) }

// report collects figures and prints each as it comes.
type report struct {
	w       io.Writer
	figures []figure
	// none are the names of what was measured and gave no number.
	none []string
}

// add judges a figure by its budget, prints it and keeps it. One that is no number, such as a
// ratio to nothing, is not a figure: it would keep every lower bound.
func (r *report) add(f figure) {
	if math.IsNaN(f.Value) || math.IsInf(f.Value, 0) || f.Beside != nil && (math.IsNaN(f.Beside.Value) || math.IsInf(f.Beside.Value, 0)) {
		r.none = append(r.none, f.Name)
		return
	}
	if f.Budget != nil {
		met := f.Budget.keeps(f.Value)
		f.Met = &met
	}
	f.Value = round(f.Value)
	if f.Beside != nil {
		f.Beside.Value = round(f.Beside.Value)
	}
	r.figures = append(r.figures, f)
	fmt.Fprintf(r.w, "%s %s %s\n", f.Name, number(f.Value), f.Unit)
}

// err names what gave no number.
func (r *report) err() error {
	if len(r.none) == 0 {
		return nil
	}
	return fmt.Errorf("no number came of %s", strings.Join(r.none, ", "))
}

// summary lists the budgets that were missed.
func (r *report) summary(w io.Writer) {
	bounded, missed := 0, 0
	for _, f := range r.figures {
		if f.Met == nil {
			continue
		}
		bounded++
		if !*f.Met {
			missed++
			before := ""
			if f.Budget.keeps(f.Value) {
				before = " before it was rounded"
			}
			fmt.Fprintf(w, "budget missed: %s is %s %s%s, wanted %s\n", f.Name, number(f.Value), f.Unit, before, f.Budget)
		}
	}
	fmt.Fprintf(w, "%d figures; %d of %d budgets kept\n", len(r.figures), bounded-missed, bounded)
}

func (r *report) save(path string) error {
	figures := r.figures
	if figures == nil {
		figures = []figure{}
	}
	data, err := json.MarshalIndent(figures, "", "  ")
	if err != nil {
		return fmt.Errorf("encode figures: %w", err)
	}
	if err := os.WriteFile(path, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write figures: %w", err)
	}
	return nil
}

// round keeps four digits; no figure here is known better.
func round(v float64) float64 {
	if v == 0 || math.IsInf(v, 0) || math.IsNaN(v) {
		return v
	}
	scale := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}

func number(v float64) string { return strconv.FormatFloat(round(v), 'f', -1, 64) }
