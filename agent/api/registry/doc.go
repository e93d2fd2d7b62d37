// Package registry turns the registration of a kind into what the API server
// library serves: one generic strategy and store for all kinds, their status
// subresource, their table output, and the few resources that need more, such as
// namespaces.
//
// On create, status is cleared and metadata.generation starts at 1; on update,
// status stays as it was and the generation counts changes of what is wanted; on
// an update of status everything but status stays.
package registry
