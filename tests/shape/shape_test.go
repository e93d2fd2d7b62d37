// Package shape holds the tree to its plan: which package may import which,
// which library has one owner, that every package says what it is for, and
// that files and functions stay small enough to read.
package shape

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "virtmesh/"

// goPackage is a directory of Go files, tests left out.
type goPackage struct {
	path  string
	files map[string]*ast.File
}

func load(t *testing.T) (*token.FileSet, []goPackage) {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	packages := map[string]*goPackage{}
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			if path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		if packages[dir] == nil {
			packages[dir] = &goPackage{path: dir, files: map[string]*ast.File{}}
		}
		packages[dir].files[filepath.Join(dir, name)] = file
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var list []goPackage
	for _, p := range packages {
		list = append(list, *p)
	}
	if len(list) < 20 {
		t.Fatalf("found only %d packages below %s", len(list), root)
	}
	return fset, list
}

func imports(p goPackage) []string {
	var list []string
	for _, file := range p.files {
		for _, spec := range file.Imports {
			list = append(list, strings.Trim(spec.Path.Value, `"`))
		}
	}
	return list
}

func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// forbidden lists what may not be imported from where, with the reason.
var forbidden = []struct {
	from, imports, except, reason string
}{
	{"raftstore", "virtmesh", "virtmesh/raftstore", "a leaf: it could be a module of its own"},
	{"gossip", "virtmesh", "virtmesh/gossip", "a leaf: it could be a module of its own"},
	{"netplug", "virtmesh", "virtmesh/netplug", "a leaf: it could be a module of its own"},
	{"storage", "virtmesh", "virtmesh/storage", "a leaf: it could be a module of its own"},
	{"agent", "virtmesh/cli", "", "the command line uses the agent, not the other way round"},
	{"agent/objects", "virtmesh/agent/api", "", "controllers work without the API server"},
	{"agent/stewards", "virtmesh/agent/api", "", "stewards work on stored objects, not on requests"},
	{"agent/host", "virtmesh/agent/api", "", "host loops work on stored objects, not on requests"},
	{"agent/host", "virtmesh/agent/stewards/", "", "stewards and host loops meet in stored objects only"},
	{"agent/claims", "virtmesh/agent/host", "", "claims are decided without the host that carries them out"},
	{"agent/claims", "virtmesh/agent/stewards", "", "claims hold what stewards decided, not how"},
	{"agent/vmi", "virtmesh", "virtmesh/agent/vmi", "the reading of a machine is pure"},
	{"agent/stewards/schedule/place", "virtmesh/agent/objects", "", "placement is pure"},
	{"agent/host/domain", "virtmesh/raftstore", "", "the conversion to a domain is pure"},
	{"agent/host/hypervisor", "virtmesh/agent/objects", "", "the contract knows domains, not objects"},
	{"agent/host/hypervisor", "virtmesh/raftstore", "", "the contract knows domains, not objects"},
}

func TestImportsPointOneWay(t *testing.T) {
	_, packages := load(t)
	for _, p := range packages {
		for _, path := range imports(p) {
			for _, rule := range forbidden {
				if within(p.path, rule.from) && within(path, rule.imports) && (rule.except == "" || !within(path, rule.except)) {
					t.Errorf("%s imports %s: %s", p.path, path, rule.reason)
				}
			}
		}
	}
}

func TestSiblingStewardsMeetInStoredObjectsOnly(t *testing.T) {
	_, packages := load(t)
	const siblings = "agent/stewards"
	for _, p := range packages {
		rest, ok := strings.CutPrefix(p.path, siblings+"/")
		if !ok {
			continue
		}
		own, _, _ := strings.Cut(rest, "/")
		for _, path := range imports(p) {
			// Placing is pure arithmetic, which more than one steward does.
			if path == module+siblings+"/schedule/place" {
				continue
			}
			if strings.HasPrefix(path, module+siblings+"/") && !within(path, module+siblings+"/"+own) {
				t.Errorf("%s imports its sibling %s", p.path, path)
			}
		}
	}
}

// owners names the only places that may import a library.
var owners = map[string][]string{
	"github.com/hashicorp/raft":       {"raftstore"},
	"github.com/hashicorp/memberlist": {"gossip"},
	"github.com/vishvananda/netlink":  {"netplug/kernel"},
	"github.com/google/nftables":      {"netplug/kernel"},
	"libvirt.org/go/libvirt":          {"agent/host/hypervisor/libvirt"},
	"github.com/urfave/cli/v2":        {"cli"},
	"k8s.io/apiserver":                {"agent/api"},
}

func TestEveryOutsidePillarHasOneOwner(t *testing.T) {
	_, packages := load(t)
	for _, p := range packages {
		for _, path := range imports(p) {
			for library, places := range owners {
				if !within(path, library) {
					continue
				}
				if !slices.ContainsFunc(places, func(place string) bool { return within(p.path, place) }) {
					t.Errorf("%s imports %s, which belongs to %v", p.path, path, places)
				}
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	_, packages := load(t)
	for _, p := range packages {
		documented := false
		for _, file := range p.files {
			documented = documented || file.Doc.Text() != ""
		}
		if !documented {
			t.Errorf("%s has no package comment", p.path)
		}
	}
}

// vagueNames say nothing about what a package is.
var vagueNames = []string{"util", "utils", "common", "helpers", "misc", "types", "constants", "errors", "shared", "lib"}

func TestNoVaguePackageNames(t *testing.T) {
	_, packages := load(t)
	for _, p := range packages {
		if slices.Contains(vagueNames, filepath.Base(p.path)) {
			t.Errorf("%s: name the package for what it is", p.path)
		}
	}
}

// Limits above which a file or a function is too long to be read in one go.
const (
	maxFileLines     = 800
	maxFunctionLines = 80
)

func TestFilesAndFunctionsStaySmall(t *testing.T) {
	fset, packages := load(t)
	for _, p := range packages {
		for name, file := range p.files {
			if ast.IsGenerated(file) {
				continue
			}
			if lines := fset.Position(file.End()).Line; lines > maxFileLines {
				t.Errorf("%s has %d lines, more than %d", name, lines, maxFileLines)
			}
			for _, declaration := range file.Decls {
				function, ok := declaration.(*ast.FuncDecl)
				if !ok {
					continue
				}
				lines := fset.Position(function.End()).Line - fset.Position(function.Pos()).Line + 1
				if lines > maxFunctionLines {
					t.Errorf("%s: %s has %d lines, more than %d", name, function.Name.Name, lines, maxFunctionLines)
				}
			}
		}
	}
}

func TestNothingIsLeftToDo(t *testing.T) {
	_, packages := load(t)
	for _, p := range packages {
		for name, file := range p.files {
			if ast.IsGenerated(file) {
				continue
			}
			text, err := os.ReadFile(filepath.Join("../..", name))
			if err != nil {
				t.Fatal(err)
			}
			for _, mark := range []string{"TO" + "DO", "FIX" + "ME", "XX" + "X"} {
				if strings.Contains(string(text), mark) {
					t.Errorf("%s holds a %s", name, mark)
				}
			}
		}
	}
}
