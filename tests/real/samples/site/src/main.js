document.body.append("GREETING");
