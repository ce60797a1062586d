"""What is known of the paper's numbers, second hand: from its abstract and public summaries, not from its tables."""

PAPER = {
    "C1": "MDQA F1 0.83 after real data, 0.49 after the best synthetic set (Llama-3-8B)",
    "C2": "129 heads on real MuSiQue; 112 and 39 on two synthetic sets, mostly among them",
    "C3": "“strongly correlated”; on MDQA Spearman 0.23 (Llama-3) and −0.27 (Mistral)",
    "C4": "the 10 strongest heads masked: F1 collapses; 10 random heads: less than 0.05 lost",
    "C5": "the intersection lifts symbolic MDQA from 0.48 to 0.73, of 0.83",
}
"""By claim, for a table beside this study's numbers."""
