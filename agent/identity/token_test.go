package identity_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"virtmesh/agent/identity"
)

func TestTokenRoundTrip(t *testing.T) {
	token := identity.NewToken(identity.Pin{1, 2, 3})
	text := token.Encode()
	got, err := identity.ParseToken("  " + text + "\n")
	if err != nil || got != token {
		t.Fatalf("parsed %v, %v", got, err)
	}
	if len(text) > 90 {
		t.Errorf("a token has %d characters", len(text))
	}
	secret := strings.Split(text, ".")[2]
	for _, shown := range []string{fmt.Sprint(token), fmt.Sprintf("%v", token), fmt.Sprintf("%+v", token), fmt.Sprintf("%#v", token)} {
		if strings.Contains(shown, secret) || !strings.Contains(shown, token.ID) {
			t.Errorf("printed as %s", shown)
		}
	}
}

func TestTokenRefuses(t *testing.T) {
	good := identity.NewToken(identity.Pin{}).Encode()
	parts := strings.Split(good, ".")
	bad := map[string]string{
		"empty":        "",
		"other":        "abcdef.0123456789abcdef",
		"version":      strings.Replace(good, "vm1", "vm2", 1),
		"short":        good[:len(good)-1],
		"long":         good + "A",
		"extra part":   good + ".x",
		"upper id":     strings.Join([]string{"vm1", strings.ToUpper(parts[1]), parts[2], parts[3]}, "."),
		"no secret":    strings.Join([]string{"vm1", parts[1], "", parts[3]}, "."),
		"line break":   strings.Join([]string{"vm1", parts[1], parts[2][:5] + "\n" + parts[2][5:], parts[3]}, "."),
		"loose base64": good[:len(good)-1] + "B", // the same bits, spelled otherwise
	}
	for name, text := range bad {
		_, err := identity.ParseToken(text)
		if !errors.Is(err, identity.ErrTokenFormat) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(text) > 60 && strings.Contains(err.Error(), parts[2]) {
			t.Errorf("%s: the error shows the secret", name)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(identity.NewToken(identity.Pin{9}).Encode())
	f.Add("vm1.aaaaaaaa.AAAAAAAAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Add("vm1...")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := identity.ParseToken(text)
		if err != nil {
			if !errors.Is(err, identity.ErrTokenFormat) {
				t.Errorf("error %v", err)
			}
			return
		}
		if token.Encode() != strings.TrimSpace(text) {
			t.Errorf("%q parsed and printed as %q", text, token.Encode())
		}
		if !identity.ValidTokenID(token.ID) {
			t.Errorf("id %q", token.ID)
		}
	})
}
