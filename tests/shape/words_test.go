package shape

import (
	"go/ast"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// namesError says whether an expression is an error by its name.
func namesError(x ast.Expr) bool {
	switch x := x.(type) {
	case *ast.Ident:
		return x.Name == "err" || strings.HasSuffix(x.Name, "Err") || strings.HasPrefix(x.Name, "err") && len(x.Name) > 3 && unicode.IsUpper(rune(x.Name[3]))
	case *ast.SelectorExpr:
		return x.Sel.Name == "err" || x.Sel.Name == "Err"
	case *ast.CallExpr:
		selector, ok := x.Fun.(*ast.SelectorExpr)
		return ok && (selector.Sel.Name == "Err" || isPackage(selector.X, "errors") && selector.Sel.Name == "Join")
	}
	return false
}

// What an error is made of can be found in it: %w, not %v.
func TestErrorsWrapTheirCause(t *testing.T) {
	rule := newRule(t, "wrap")
	eachFile(t, func(fset *token.FileSet, path string, file *ast.File) {
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) < 2 {
				return true
			}
			selector, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || !isPackage(selector.X, "fmt") || selector.Sel.Name != "Errorf" {
				return true
			}
			format, ok := literal(call.Args[0])
			if ok && !strings.Contains(format, "%w") && slices.ContainsFunc(call.Args[1:], namesError) {
				rule.broken(path+" "+format, "%s: wrap the cause with %%w", fset.Position(call.Pos()))
			}
			return true
		})
	})
	rule.done()
}

func literal(x ast.Expr) (string, bool) {
	lit, ok := x.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(lit.Value)
	return text, err == nil
}

// logMethods are slog's, by the number of arguments before the keys begin.
var logMethods = map[string]int{
	"Debug": 1, "Info": 1, "Warn": 1, "Error": 1, "With": 0,
	"Log": 3, "LogAttrs": 3,
	"DebugContext": 2, "InfoContext": 2, "WarnContext": 2, "ErrorContext": 2,
}

// logCall is the method of a call to a logger, or "".
func logCall(call *ast.CallExpr) string {
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	if _, ok := logMethods[selector.Sel.Name]; !ok {
		return ""
	}
	name := ""
	switch x := selector.X.(type) {
	case *ast.Ident:
		name = x.Name
	case *ast.SelectorExpr:
		name = x.Sel.Name
	case *ast.CallExpr:
		if logCall(x) == "With" {
			name = "log"
		}
	}
	if name = strings.ToLower(name); name == "log" || name == "logger" || name == "slog" {
		return selector.Sel.Name
	}
	return ""
}

// logKey is how a key of a log line is written.
var logKey = regexp.MustCompile(`^[a-z][A-Za-z0-9]*$`)

func TestLogLinesAreWrittenOneWay(t *testing.T) {
	rule := newRule(t, "log")
	eachFile(t, func(fset *token.FileSet, path string, file *ast.File) {
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			method := logCall(call)
			if method == "" {
				return true
			}
			for _, fault := range faultsOfLog(call, logMethods[method]) {
				rule.broken(path+" "+fault, "%s: %s", fset.Position(call.Pos()), fault)
			}
			return true
		})
	})
	rule.done()
}

func faultsOfLog(call *ast.CallExpr, keys int) []string {
	var faults []string
	if keys > 0 && len(call.Args) >= keys {
		if message, ok := literal(call.Args[keys-1]); ok && beginsLikeASentence(message) {
			faults = append(faults, "message "+strconv.Quote(message)+" begins in upper case")
		}
	}
	for i := keys; i < len(call.Args); i += 2 {
		if attr, ok := call.Args[i].(*ast.CallExpr); ok {
			if selector, ok := attr.Fun.(*ast.SelectorExpr); ok && isPackage(selector.X, "slog") && len(attr.Args) > 0 {
				if key, ok := literal(attr.Args[0]); ok {
					faults = append(faults, faultsOfKey(key)...)
				}
				i-- // an attribute is one argument
			}
			continue
		}
		if key, ok := literal(call.Args[i]); ok {
			faults = append(faults, faultsOfKey(key)...)
		}
	}
	return faults
}

func faultsOfKey(key string) []string {
	if other := loggedAs[key]; other != "" {
		return []string{"key " + strconv.Quote(key) + ": it is logged as " + strconv.Quote(other)}
	}
	if !logKey.MatchString(key) {
		return []string{"key " + strconv.Quote(key) + " is not lowerCamelCase"}
	}
	return nil
}

// loggedAs is the one key for what other keys could name as well, so that a search of the
// log finds all lines.
var loggedAs = map[string]string{
	"error": "err", "address": "addr", "file": "path", "filename": "path", "duration": "took", "elapsed": "took",
	"delay": "retryIn", "again": "retryIn", "backoff": "retryIn", "vmi": "instance", "ns": "namespace",
}

// beginsLikeASentence says whether a text begins with a capital that belongs
// to its place and not to a name, such as QEMU.
func beginsLikeASentence(text string) bool {
	first, size := utf8.DecodeRuneInString(text)
	second, _ := utf8.DecodeRuneInString(text[size:])
	return unicode.IsUpper(first) && (unicode.IsLower(second) || second == ' ')
}

// The shape of a log line is judged by a scan of the source: these show that
// the scan sees what it should.
func TestLogScanFindsFaults(t *testing.T) {
	for text, want := range map[string]bool{"Skipping a claim": true, "skipping": false, "A host": true, "QEMU is gone": false, "": false} {
		if beginsLikeASentence(text) != want {
			t.Errorf("%q: want %v", text, want)
		}
	}
	for key, want := range map[string]int{"err": 0, "tookMs": 0, "error": 1, "address": 1, "took_ms": 1, "Host": 1} {
		if got := len(faultsOfKey(key)); got != want {
			t.Errorf("%q has %d faults, want %d", key, got, want)
		}
	}
}
