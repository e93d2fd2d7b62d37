package membership

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/membership/succession"
	"virtmesh/raftstore"
)

// Root on a host that does not vote writes what other hosts go by: its own key for tokens, for
// Secrets, or for a recovery. The leader refuses it; a voter writes it, and an administrator asks
// any host for another key for Secrets.
func TestOnlyVotersWriteWhatHostsGoBy(t *testing.T) {
	t.Parallel()
	first, second, _ := escrowing(t)
	if voters := first.store.Voters(); !slices.Equal(voters, []string{"host1"}) {
		t.Fatalf("%q vote", voters)
	}
	for _, key := range []string{identity.KeyTokenKeys, identity.KeyEscrow, identity.KeyDemoted, identity.KeySecretKeys, succession.Key(7), raftstore.FencesPrefix + "host1/boot"} {
		rec, _, err := first.store.Get(t.Context(), key, raftstore.ReadOptions{})
		if err != nil && !errors.Is(err, raftstore.ErrNotFound) {
			t.Fatal(err)
		}
		txn := raftstore.Txn{If: []raftstore.Condition{{Key: key, ModRevision: rec.ModRevision}}, Ops: []raftstore.Op{{Key: key, Value: []byte("{}")}}}
		if _, err := second.store.Commit(t.Context(), txn); !errors.Is(err, raftstore.ErrForbidden) || fault.Of(err).Code != fault.Forbidden {
			t.Errorf("host2, which does not vote, writes %s: %v", key, err)
		}
		txn.Ops[0].Value = rec.Value
		if !json.Valid(rec.Value) {
			txn.Ops[0].Value = []byte("{}")
		}
		if err := mayWrite(first.store, []string{"host1", "host2"}, "host2", txn); err != nil {
			t.Errorf("a voter writes %s: %v", key, err)
		}
	}
	if err := second.RotateSecretKey(t.Context()); err != nil {
		t.Errorf("host2 is asked for another key for Secrets: %v", err)
	}
	if keys, _, err := identity.ReadSecretKeys(t.Context(), first.store, raftstore.ReadOptions{}); err != nil || !keys.Rotate {
		t.Errorf("another key is wanted: %t, %v", keys.Rotate, err)
	}
}

// Whatever this version writes into the state is in the list of who may write it, once, unless the
// store itself lets no host write it.
func TestEveryKeyHasItsWriters(t *testing.T) {
	t.Parallel()
	first, _, _ := escrowing(t)
	keys, table := stateKeys(t), keyWriters()
	if len(keys) < 20 {
		t.Fatalf("only %d keys are found in the sources: %q", len(keys), keys)
	}
	for _, w := range table {
		if !slices.ContainsFunc(keys, w.covers) {
			t.Errorf("keyWriters knows %s, and no source names it", w.key)
		}
	}
	stored, err := first.store.List(t.Context(), raftstore.ListRequest{Prefix: "/"})
	if err != nil || len(stored.Records) == 0 {
		t.Fatalf("%d records, %v", len(stored.Records), err)
	}
	for _, rec := range stored.Records {
		keys = append(keys, rec.Key)
	}
	for _, key := range keys {
		covering := slices.DeleteFunc(slices.Clone(table), func(w keyWriter) bool { return !w.covers(key) })
		if len(covering) == 1 {
			continue
		}
		txn := raftstore.Txn{Ops: []raftstore.Op{{Key: key, Value: []byte("{}")}}}
		if _, err := first.store.Commit(t.Context(), txn); len(covering) > 0 || !errors.Is(err, raftstore.ErrInvalidTxn) {
			t.Errorf("%s has %d entries in keyWriters, want one; without, a host that writes it gets %v", key, len(covering), err)
		}
	}
}

// stateKeys returns the constants by which the sources of agent and store name keys of the state, and
// what such keys begin with.
func stateKeys(t *testing.T) (keys []string) {
	t.Helper()
	named, path := regexp.MustCompile(`Key|Prefix|Root`), regexp.MustCompile(`^path|Path$`)
	collect := func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range parsed.Decls {
			constants, ok := decl.(*ast.GenDecl)
			if !ok || constants.Tok != token.CONST {
				continue
			}
			for _, spec := range constants.Specs {
				value := spec.(*ast.ValueSpec)
				for i, name := range value.Names {
					if i >= len(value.Values) || !named.MatchString(name.Name) || path.MatchString(name.Name) {
						continue
					}
					literal, ok := value.Values[i].(*ast.BasicLit)
					if !ok || literal.Kind != token.STRING {
						continue
					}
					if text, err := strconv.Unquote(literal.Value); err == nil && strings.HasPrefix(text, "/") {
						keys = append(keys, text)
					}
				}
			}
		}
		return nil
	}
	for _, dir := range []string{"..", filepath.Join("..", "..", "raftstore")} {
		if err := filepath.WalkDir(dir, collect); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}
