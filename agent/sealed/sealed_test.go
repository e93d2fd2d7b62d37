package sealed_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"virtmesh/agent/kinds"
	"virtmesh/agent/sealed"
	"virtmesh/raftstore"
)

const secretUID = "0d6c8f36-9b4e-4d3a-8d2c-1f8c6f0d5e11"

func storeKey(name string) string {
	return kinds.For[*corev1.Secret]().StoreKey(kinds.Key{Namespace: "ns", Name: name})
}

func newKey(t testing.TB) sealed.PrivateKey {
	t.Helper()
	key, err := sealed.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newVault returns a Vault that seals with a key. It holds the key, or asks ask.
func newVault(t testing.TB, key sealed.PrivateKey, ask func([]sealed.Lock) ([][]byte, error)) *sealed.Vault {
	t.Helper()
	v, err := sealed.NewVault(sealed.Config{
		Recipient: func(context.Context) (sealed.Recipient, error) { return sealed.Recipient{Key: key.Public()}, nil },
		Held:      func(id string) (sealed.PrivateKey, bool) { return key, ask == nil && id == key.ID() },
		Ask:       func(_ context.Context, locks []sealed.Lock) ([][]byte, error) { return ask(locks) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func seal(t rapid.TB, v *sealed.Vault, key string, plain []byte) []byte {
	t.Helper()
	stored, _, err := v.Seal(context.Background(), key, plain)
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

func open(t rapid.TB, v *sealed.Vault, key string, stored []byte) []byte {
	t.Helper()
	values, err := v.Open(context.Background(), []raftstore.Record{{Key: key, Value: stored}})
	if err != nil {
		t.Fatal(err)
	}
	return values[0]
}

func encode(t rapid.TB, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Whatever a Secret holds, opening gives the same bytes again, and what is stored shows none of
// its values.
func TestOpenIsTheInverseOfSeal(t *testing.T) {
	v := newVault(t, newKey(t), nil)
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[a-z<>&"\\{}:,é ]{0,12}`)
		secret := &corev1.Secret{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "ns", Name: "a", UID: secretUID, Finalizers: rapid.SliceOfN(text, 0, 2).Draw(t, "finalizers"),
				Labels:      rapid.MapOfN(rapid.SampledFrom([]string{"sealed", "b"}), text, 0, 2).Draw(t, "labels"),
				Annotations: rapid.MapOfN(rapid.SampledFrom([]string{"a", corev1.LastAppliedConfigAnnotation, "z", "é"}), text, 0, 4).Draw(t, "annotations"),
			},
			Type: corev1.SecretType(text.Draw(t, "type")), Data: map[string][]byte{"p": rapid.SliceOfN(rapid.Byte(), 16, 40).Draw(t, "data")},
		}
		if rapid.Bool().Draw(t, "immutable") {
			secret.Immutable = new(bool)
		}
		plain := encode(t, secret)
		stored := seal(t, v, storeKey("a"), plain)
		if !sealed.IsSealed(stored) || sealed.IsSealed(plain) {
			t.Fatalf("sealed %t, plain %t", sealed.IsSealed(stored), !sealed.IsSealed(plain))
		}
		if bytes.Contains(stored, encode(t, secret.Data["p"])) || bytes.Contains(stored, []byte(corev1.LastAppliedConfigAnnotation)) {
			t.Fatalf("stored as %s", stored)
		}
		if opened := open(t, v, storeKey("a"), stored); !bytes.Equal(opened, plain) {
			t.Fatalf("sealed\n%s\nopened\n%s", plain, opened)
		}
		if again := seal(t, v, storeKey("a"), stored); !bytes.Equal(again, stored) {
			t.Fatal("what is sealed was sealed again")
		}
	})
}

func testSecret() *corev1.Secret {
	return &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a", UID: secretUID, Finalizers: []string{"a/b"}, Annotations: map[string]string{
			corev1.LastAppliedConfigAnnotation: `{"data":{"p":"c2VjcmV0"}}`,
		}},
		Data: map[string][]byte{"p": []byte("secret")},
	}
}

// Who needs no key changes the readable part, in its own encoding; the change and what is
// sealed are there for who opens it.
func TestTheReadablePartIsChangedWithoutAKey(t *testing.T) {
	v := newVault(t, newKey(t), nil)
	stored := seal(t, v, storeKey("a"), encode(t, testSecret()))
	var raw map[string]any
	if err := json.Unmarshal(stored, &raw); err != nil {
		t.Fatal(err)
	}
	delete(raw["metadata"].(map[string]any), "finalizers")
	changed := encode(t, raw) // with its members sorted
	if !sealed.IsSealed(changed) {
		t.Fatalf("%s is not sealed", changed)
	}
	want := testSecret()
	want.Finalizers = nil
	if opened := open(t, v, storeKey("a"), changed); string(opened) != string(encode(t, want)) {
		t.Errorf("opened\n%s\nwant\n%s", opened, encode(t, want))
	}
}

// What was sealed for one object is of no use at the place of another, under another UID, or
// with the content of another write, whether its data key is in memory or not.
func TestSealedIsBoundToItsObject(t *testing.T) {
	key := newKey(t)
	v := newVault(t, key, nil)
	other := testSecret()
	other.Data["p"] = []byte("other")
	stored, second := seal(t, v, storeKey("a"), encode(t, testSecret())), seal(t, v, storeKey("a"), encode(t, other))
	content := func(value []byte) []byte {
		var shape struct {
			Sealed struct {
				Content string `json:"content"`
			} `json:"sealed"`
		}
		if err := json.Unmarshal(value, &shape); err != nil {
			t.Fatal(err)
		}
		return []byte(shape.Sealed.Content)
	}
	for name, c := range map[string]struct {
		key   string
		value []byte
	}{
		"another place":   {storeKey("b"), stored},
		"another UID":     {storeKey("a"), bytes.Replace(stored, []byte(secretUID[:8]), []byte("11111111"), 1)},
		"another content": {storeKey("a"), bytes.Replace(stored, content(stored), content(second), 1)},
	} {
		for memory, v := range map[string]*sealed.Vault{"in memory": v, "not in memory": newVault(t, key, nil)} {
			if opened := open(t, v, c.key, c.value); opened != nil {
				t.Errorf("%s, the data key %s: opened as %s", name, memory, opened)
			}
		}
	}
}

// A host without the key asks for many data keys at a time, and for none twice. What nobody can
// open does not keep the others from being opened.
func TestAVaultWithoutTheKeyAsks(t *testing.T) {
	key := newKey(t)
	holds := newVault(t, key, nil)
	var calls []int
	asks := newVault(t, key, func(locks []sealed.Lock) ([][]byte, error) {
		calls = append(calls, len(locks))
		dataKeys := make([][]byte, len(locks))
		for i, lock := range locks {
			dataKeys[i], _ = key.Unlock(lock)
		}
		return dataKeys, nil
	})
	var records []raftstore.Record
	for i := range sealed.MaxLocks + 20 {
		at := storeKey(fmt.Sprint("s", i))
		records = append(records, raftstore.Record{Key: at, Value: seal(t, holds, at, encode(t, testSecret()))})
	}
	records = append(records, raftstore.Record{Key: storeKey("plain"), Value: encode(t, testSecret())})
	records[3].Key = storeKey("elsewhere")
	values, err := asks.Open(t.Context(), records)
	if err != nil || !slices.Equal(calls, []int{sealed.MaxLocks, 20}) {
		t.Fatalf("asked for %v, %v", calls, err)
	}
	for i, value := range values {
		if opens := value != nil; opens != (i != 3) || opens && !bytes.Equal(value, encode(t, testSecret())) {
			t.Errorf("%s opened as %q", records[i].Key, value)
		}
	}
	if _, err := asks.Open(t.Context(), records[4:]); err != nil || len(calls) != 2 {
		t.Errorf("asked again for %v, %v", calls, err)
	}
	away := errors.New("nobody answers")
	asks = newVault(t, key, func([]sealed.Lock) ([][]byte, error) { return nil, away })
	if values, err := asks.Open(t.Context(), records); !errors.Is(err, away) || values != nil {
		t.Errorf("%d values while nobody answers, %v", len(values), err)
	}
	short := newVault(t, key, func([]sealed.Lock) ([][]byte, error) { return nil, nil })
	if values, err := short.Open(t.Context(), records); err == nil || values != nil {
		t.Errorf("%d values from an answer without keys", len(values))
	}
}

// Only what holds a kind that can be sealed is touched.
func TestTouches(t *testing.T) {
	v := newVault(t, newKey(t), nil)
	for prefix, want := range map[string]bool{
		storeKey("a"): true, kinds.For[*corev1.Secret]().Prefix(): true, kinds.Root: true, "/": true,
		kinds.For[*corev1.Node]().Prefix(): false, "/claims/": false, "/mesh/secret-keys": false,
	} {
		if v.Touches(prefix) != want {
			t.Errorf("%s: want %t", prefix, want)
		}
	}
}
