package shape

import (
	"go/ast"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestEverythingExportedIsDocumented(t *testing.T) {
	rule := newRule(t, "docs")
	eachFile(t, func(fset *token.FileSet, path string, file *ast.File) {
		missing := func(at ast.Node, name string) {
			rule.broken(path+" "+name, "%s: %s is exported and has no comment", fset.Position(at.Pos()), name)
		}
		for _, declaration := range file.Decls {
			switch d := declaration.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) && !ofMain(file) {
					missing(d, d.Name.Name)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if name := undocumented(d, spec); name != "" {
						missing(spec, name)
					}
				}
			}
		}
	})
	rule.done()
}

func ofMain(file *ast.File) bool { return file.Name.Name == "main" }

// exportedReceiver says whether a function is one or a method that users see.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return true
	}
	x := d.Recv.List[0].Type
	for {
		switch inner := x.(type) {
		case *ast.StarExpr:
			x = inner.X
		case *ast.IndexExpr:
			x = inner.X
		case *ast.IndexListExpr:
			x = inner.X
		case *ast.Ident:
			return inner.IsExported() && !wellKnown[d.Name.Name]
		default:
			return false
		}
	}
}

// wellKnown methods are those of the standard library's interfaces, whose
// meaning their comment could only repeat.
var wellKnown = map[string]bool{
	"String": true, "Error": true, "Unwrap": true, "Is": true,
	"Len": true, "Less": true, "Swap": true, "MarshalJSON": true, "UnmarshalJSON": true,
	"DeepCopyObject": true, "DeepCopy": true, "DeepCopyInto": true,
}

// undocumented names what a declaration exports without saying what it is. A
// comment on a group of constants or variables covers the group.
func undocumented(d *ast.GenDecl, spec ast.Spec) string {
	switch s := spec.(type) {
	case *ast.TypeSpec:
		if s.Name.IsExported() && s.Doc == nil && (d.Doc == nil || d.Lparen.IsValid()) && s.Comment == nil {
			return s.Name.Name
		}
	case *ast.ValueSpec:
		if d.Doc != nil || s.Doc != nil || s.Comment != nil {
			return ""
		}
		for _, name := range s.Names {
			if name.IsExported() {
				return name.Name
			}
		}
	}
	return ""
}

var (
	// inCode finds what a document sets as code, linked what it links to.
	inCode = regexp.MustCompile("`([^`\n]+)`")
	linked = regexp.MustCompile(`\]\(([^)#:\s]+)(#[^)]*)?\)`)
	// target finds a target of the Makefile where it is called by name.
	target = regexp.MustCompile(`\bmake ([a-z][a-z0-9-]*)`)
)

// documents are the pages whose paths are checked.
func documents(t *testing.T) []string {
	t.Helper()
	var list []string
	if err := walk(".md", func(path string) error {
		if path != "CHANGELOG.md" { // it tells of the past
			list = append(list, path)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return list
}

func exists(path string) bool {
	_, err := os.Stat(filepath.Join(root, path))
	return err == nil
}

// topNames are the directories that a path of ours begins with.
var topNames = []string{"agent", "cli", "gossip", "netplug", "raftstore", "storage", "tests", "docs", ".ci", "packaging"}

// namedPath is the path of the tree that a word names, or "".
func namedPath(word string) string {
	word = strings.TrimPrefix(word, "./")
	first, rest, _ := strings.Cut(word, "/")
	if !slices.Contains(topNames, first) || rest == "" || strings.ContainsAny(word, " {}<>$*|=,:()…") {
		return ""
	}
	return strings.TrimSuffix(word, "/")
}

func TestDocumentsNamePathsThatExist(t *testing.T) {
	for _, document := range documents(t) {
		text, err := os.ReadFile(filepath.Join(root, document))
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range inCode.FindAllSubmatch(text, -1) {
			for word := range strings.FieldsSeq(string(match[1])) {
				if named := namedPath(word); named != "" && !exists(named) && !exists(path.Join(path.Dir(document), named)) {
					t.Errorf("%s names `%s`, which is not there", document, named)
				}
			}
		}
		for _, match := range linked.FindAllSubmatch(text, -1) {
			if to := path.Join(path.Dir(document), string(match[1])); !exists(to) {
				t.Errorf("%s links to %s, which is not there", document, match[1])
			}
		}
	}
}

func TestDocumentsNameTargetsThatExist(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range documents(t) {
		text, err := os.ReadFile(filepath.Join(root, document))
		if err != nil {
			t.Fatal(err)
		}
		for _, code := range inCode.FindAllSubmatch(text, -1) {
			for _, match := range target.FindAllSubmatch(code[1], -1) {
				if !regexp.MustCompile(`(?m)^` + string(match[1]) + `:`).Match(makefile) {
					t.Errorf("%s names `make %s`, which is no target", document, match[1])
				}
			}
		}
	}
}

// mentioned finds paths of packages in comments.
var mentioned = regexp.MustCompile(`\b(?:agent|raftstore|gossip|netplug|storage|cli)/[a-z0-9_/]*[a-z0-9_]`)

func TestCommentsNamePackagesThatExist(t *testing.T) {
	rule := newRule(t, "comments")
	eachFile(t, func(fset *token.FileSet, path string, file *ast.File) {
		for _, group := range file.Comments {
			for _, named := range mentioned.FindAllString(group.Text(), -1) {
				if !exists(named) && !exists(named+".go") {
					rule.broken(path+" "+named, "%s: the comment names %s, which is not there", fset.Position(group.Pos()), named)
				}
			}
		}
	})
	rule.done()
}

// Who begins to work here is told of every document about the design of a part.
func TestDesignsAreNamed(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "CONTRIBUTING.md"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), "\n## ")
	found := 0
	for _, page := range documents(t) {
		if dir := path.Dir(page); path.Base(page) == "DESIGN.md" && dir != "." {
			found++
			if !strings.Contains(first, "`"+dir+"`") {
				t.Errorf("CONTRIBUTING.md does not name %s", page)
			}
		}
	}
	if found == 0 {
		t.Error("found no DESIGN.md below the top: this test looks for the wrong thing")
	}
}
