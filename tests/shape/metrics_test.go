package shape

import (
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	// metricName is a metric of ours as code writes it; one that ends with "_" is the
	// beginning of several.
	metricName = regexp.MustCompile(`^"(virtmesh|kubevirt)_[a-z0-9_]+"$`)
	// metricRest is what follows such a beginning.
	metricRest = regexp.MustCompile(`^"[a-z][a-z0-9_]*"$`)
	// metricLabels are what a document says of a metric's labels.
	metricLabels = regexp.MustCompile(`\{[^}]*\}`)
)

// Every metric has its row in docs/metrics.md.
func TestMetricsAreDocumented(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	documented := documentedMetrics(string(text))
	_, packages := load(t)
	found := 0
	for _, p := range packages {
		if strings.HasPrefix(p.path, "tests") || strings.HasPrefix(p.path, "cli") {
			continue
		}
		for _, name := range metricsOf(p) {
			found++
			if !documented[name] {
				t.Errorf("%s exports %s, which docs/metrics.md does not describe", p.path, name)
			}
		}
	}
	if found < 80 {
		t.Errorf("found only %d metrics: this test looks for the wrong thing", found)
	}
}

// metricsOf returns the names of the metrics that a package exports: those that it spells
// out, and those that it makes of a beginning and what is added to the constant
// metricPrefix, or is the first argument of a call whose second is the help text.
func metricsOf(p goPackage) []string {
	var names, beginnings, rests []string
	for _, file := range p.files {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BasicLit:
				if name := strings.Trim(n.Value, `"`); n.Kind == token.STRING && metricName.MatchString(n.Value) {
					if strings.HasSuffix(name, "_") {
						beginnings = append(beginnings, name)
					} else {
						names = append(names, name)
					}
				}
			case *ast.BinaryExpr:
				prefix, ok := n.X.(*ast.Ident)
				if rest, also := n.Y.(*ast.BasicLit); ok && also && prefix.Name == "metricPrefix" && metricRest.MatchString(rest.Value) {
					rests = append(rests, strings.Trim(rest.Value, `"`))
				}
			case *ast.CallExpr:
				if rest, ok := describedRest(n); ok {
					rests = append(rests, rest)
				}
			}
			return true
		})
	}
	for _, beginning := range beginnings {
		for _, rest := range rests {
			names = append(names, beginning+rest)
		}
	}
	return names
}

// describedRest returns the first argument of a call like gauge("taps", "Taps wanted.").
func describedRest(call *ast.CallExpr) (string, bool) {
	if len(call.Args) < 2 {
		return "", false
	}
	first, ok := call.Args[0].(*ast.BasicLit)
	help, also := call.Args[1].(*ast.BasicLit)
	if !ok || !also || !metricRest.MatchString(first.Value) || !strings.Contains(help.Value, " ") {
		return "", false
	}
	return strings.Trim(first.Value, `"`), true
}

// documentedMetrics returns the names that a document sets as code. In one line, `_rest`
// stands for the name before it with another end.
func documentedMetrics(text string) map[string]bool {
	names := map[string]bool{}
	for line := range strings.Lines(text) {
		var whole string
		for _, code := range inCode.FindAllStringSubmatch(line, -1) {
			name := metricLabels.ReplaceAllString(code[1], "")
			if !strings.HasPrefix(name, "_") {
				whole = name
				names[name] = true
				continue
			}
			for i := range whole {
				if whole[i] == '_' {
					names[whole[:i]+name] = true
				}
			}
		}
	}
	return names
}
