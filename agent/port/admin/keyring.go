package admin

import (
	"context"
	"net/http"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/hostseal"
	"virtmesh/agent/identity"
)

// KeyringBundlePath is where the administration socket serves the content of a recovery
// bundle, and is told that one was made. The content is the private key of the mesh's CA, so
// only root on a voter can get it; other administrators cannot.
const KeyringBundlePath = "/mesh/v1/keyring/bundle"

// Keyring is what a host says of its keyring to root.
type Keyring interface {
	// KeyringBundle returns what a recovery bundle holds.
	KeyringBundle(ctx context.Context) (identity.Bundle, error)
	// KeyringBundleMade records that a bundle was written completely.
	KeyringBundleMade(ctx context.Context, made KeyringBundleRequest) error
}

// KeyringStatus tells where the private key of the mesh's CA is.
type KeyringStatus struct {
	// CAKeyInState reports whether the key is in the mesh's state, and so on every host and
	// in every backup. Otherwise only the voters hold it.
	CAKeyInState bool `json:"caKeyInState"`
	// SecretsEncrypted reports whether Secrets are encrypted in the mesh's state.
	SecretsEncrypted bool `json:"secretsEncrypted"`
	// SecretKeyWaits reports whether there is a key for Secrets that encrypts once the recovery
	// bundle gives it back and every voter has it; SecretKeyBundled whether the bundle does.
	SecretKeyWaits   bool `json:"secretKeyWaits"`
	SecretKeyBundled bool `json:"secretKeyBundled,omitempty"`
	// BundlesStayGood reports whether the mesh puts new keys into escrow for the newest recovery
	// bundle, if that is of a version that knows how (KeyringBundle.StaysGood).
	BundlesStayGood bool `json:"bundlesStayGood,omitempty"`
	// Bundle is the newest recovery bundle; nil if none was made.
	Bundle *KeyringBundle `json:"bundle,omitempty"`
	// Seal tells how the keys that the answering host holds are encrypted on its disk.
	Seal KeyringSeal `json:"seal"`
}

// KeyringSeal tells how a host's keyring is encrypted on its disk.
type KeyringSeal struct {
	// With is what protects the key that encrypts it: the host's TPM ("tpm") or a file of root's
	// ("file"). Empty: the keyring is in clear.
	With hostseal.Kind `json:"with,omitempty"`
	// NoTPM says why it is not the TPM, if the administrator did not ask for a file.
	NoTPM string `json:"noTPM,omitempty"`
	// FellBack says that the TPM has sealed it before, and a file does now because of NoTPM.
	FellBack bool `json:"fellBack,omitempty"`
	// Shut says what the host cannot open any more, and what to do.
	Shut []string `json:"shut,omitempty"`
}

// KeyringBundle is a recovery bundle that was made.
type KeyringBundle struct {
	Made time.Time `json:"made"`
	// Host is the host on which it was made.
	Host string `json:"host"`
	// Current reports whether the bundle gives back the key of the CA that signs now, and every
	// key that Secrets are encrypted with.
	Current bool `json:"current"`
	// StaysGood reports whether the bundle will give back the keys that are made after it, too.
	StaysGood bool `json:"staysGood,omitempty"`
	// OpensBackups reports whether backups are encrypted, and opened by the bundle.
	OpensBackups bool `json:"opensBackups,omitempty"`
}

// KeyringBundleRequest says that a recovery bundle was written completely.
type KeyringBundleRequest struct {
	Made time.Time `json:"made"`
	// CAPin is the pin of the CA whose key is in the bundle. Commands of versions before
	// level.Succession do not say.
	CAPin string `json:"caPin,omitempty"`
	// SecretKeys names the keys for Secrets that are in the bundle.
	SecretKeys []string `json:"secretKeys,omitempty"`
	// Recipient is for whom the bundle opens what is encrypted later; see identity.BundleMade.
	Recipient string `json:"recipient,omitempty"`
}

// WithKeyring serves the keyring at KeyringBundlePath and passes every other request to rest.
func WithKeyring(k Keyring, rest http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+KeyringBundlePath, replySoon(func(r *http.Request) (any, error) {
		return k.KeyringBundle(r.Context())
	}))
	mux.HandleFunc("POST "+KeyringBundlePath, replySoon(func(r *http.Request) (any, error) {
		var request KeyringBundleRequest
		if err := decodeBody(r, &request); err != nil {
			return nil, err
		}
		if request.Made.IsZero() {
			return nil, fault.InField("made", "is missing")
		}
		return nil, k.KeyringBundleMade(r.Context(), request)
	}))
	mux.Handle("/", rest)
	return mux
}
