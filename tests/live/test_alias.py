"""Who a recipient turns out to be: aliases, virtual addresses, userbases and .forward, by SMTP and by `smtpd -n`."""
