package domain

// unsupported refuses the fields that the API accepts and no part converts.
func unsupported(c *conversion) {
	devices := c.root.Child("devices")
	if c.domain.Devices.ClientPassthrough != nil {
		c.unsupported(devices.Child("clientPassthrough"), nil, "USB devices of a client cannot be redirected")
	}
	if c.domain.Devices.DownwardMetrics != nil {
		c.unsupported(devices.Child("downwardMetrics"), nil, "metrics of the host are not shown to guests")
	}
	if l := c.domain.LaunchSecurity; l != nil {
		path := c.root.Child("launchSecurity")
		switch {
		case l.SEV != nil:
			path = path.Child("sev")
		case l.SNP != nil:
			path = path.Child("snp")
		case l.TDX != nil:
			path = path.Child("tdx")
		}
		c.unsupported(path, nil, "guests with encrypted memory cannot run here")
	}
}
